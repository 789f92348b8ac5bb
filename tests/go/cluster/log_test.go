package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"trilith.dev/tests/internal/cluster"
)

// logged waits until what a member has logged since a mark has a line with all of the parts.
func logged(t *testing.T, member *cluster.Member, since, times int, parts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout+time.Duration(times)*time.Second)
	defer cancel()
	for {
		found := 0
		for _, line := range strings.Split(member.Log()[since:], "\n") {
			missing := false
			for _, part := range parts {
				missing = missing || !strings.Contains(line, part)
			}
			if !missing {
				found++
			}
		}
		if found >= times {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s has logged %q %d times and not %d", member.Program.Name, parts, found, times)
		}
		time.Sleep(pollInterval)
	}
}

// sameFields compares the lines that both programs logged with one of the messages: their level,
// and the names and JSON types of their fields. Each message must be there on both sides.
func sameFields(t *testing.T, etcds, subjects string, messages ...string) {
	t.Helper()
	reference, subject := fieldsOf(etcds), fieldsOf(subjects)
	for _, message := range messages {
		want, got := reference[message], subject[message]
		if len(want) == 0 || len(got) == 0 {
			t.Errorf("%q: etcd has %v, we %v", message, want, got)
		} else if difference := gocmp.Diff(want, got); difference != "" {
			t.Errorf("%q has other fields:\n%s", message, difference)
		}
	}
}

// fieldsOf tells for each message how the lines look that have it.
func fieldsOf(log string) map[string][]string {
	found := map[string]map[string]bool{}
	for _, line := range strings.Split(log, "\n") {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) != nil {
			continue
		}
		message := fmt.Sprint(fields["msg"])
		var shape []string
		for name, value := range fields {
			switch name {
			case "msg", "ts", "caller", "stacktrace":
			case "level":
				shape = append(shape, fmt.Sprint(name, " ", value))
			default:
				shape = append(shape, fmt.Sprintf("%s %T", name, value))
			}
		}
		slices.Sort(shape)
		if found[message] == nil {
			found[message] = map[string]bool{}
		}
		found[message][strings.Join(shape, ", ")] = true
	}
	shapes := map[string][]string{}
	for message, all := range found {
		shapes[message] = slices.Sorted(maps.Keys(all))
	}
	return shapes
}
