package drill

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"trilith.dev/tests/internal/cluster"
)

// With the flag of our own, room is all it takes for puts to go on.
func TestTheAlarmIsDisarmedByItselfWhenThatIsAskedFor(t *testing.T) {
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd leaves it to the operator")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{Args: []string{
		"--quota-backend-bytes=1000000", "--quota-auto-disarm-percent=60",
	}})
	client := member.Connect(clientv3.Config{})
	put := func(number int) error {
		value := make([]byte, 20_000)
		for at := range value {
			value[at] = byte((at*at)>>4 ^ at*number ^ number*number>>3)
		}
		_, err := client.Put(ctx, fmt.Sprint("key ", number), string(value))
		return err
	}
	var err error
	number := 0
	for err == nil && number < 1000 {
		number++
		err = put(number)
	}
	if err == nil || !strings.Contains(err.Error(), "database space exceeded") {
		t.Fatalf("after %d puts: %v", number, err)
	}
	deleted, err := client.Delete(ctx, "key ", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(ctx, deleted.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Defragment(ctx, member.Client); err != nil {
		t.Fatal(err)
	}
	for put(1) != nil {
		if ctx.Err() != nil {
			t.Fatal("the alarm stays although there is room")
		}
	}
}
