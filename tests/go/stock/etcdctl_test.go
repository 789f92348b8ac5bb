package stock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/compare"
)

var formats = []string{"simple", "json", "fields", "table", "protobuf"}

// commandTimeout bounds one run of etcdctl.
const commandTimeout = 30 * time.Second

// command is one call of etcdctl. LEASE in it stands for the id of the lease granted last.
type command struct {
	line  string
	stdin string
	// reply is the message that the protobuf format prints; nil where there is no such format.
	reply proto.Message
}

func commands() []command {
	put, get, del := &pb.PutResponse{}, &pb.RangeResponse{}, &pb.DeleteRangeResponse{}
	return []command{
		{line: "put foo bar", reply: put},
		{line: "put foo bar2 --prev-kv", reply: put},
		{line: "put from-stdin", stdin: "a value\nof two lines", reply: put},
		{line: "put foo --ignore-value", reply: put},
		{line: "put missing --ignore-value", reply: put},
		{line: "put foo x --lease=7f", reply: put},
		{line: "put foo1 1", reply: put}, {line: "put foo2 2", reply: put},
		{line: "put foo3 3", reply: put},
		{line: "get foo", reply: get},
		{line: "get foo --hex", reply: get},
		{line: "get foo --prefix", reply: get},
		{line: "get foo fooz --limit=2", reply: get},
		{line: "get foo --prefix --sort-by=VERSION --order=DESCEND", reply: get},
		{line: "get foo --prefix --sort-by=MODIFY --order=ASCEND --rev=2", reply: get},
		{line: "get foo1 --from-key --keys-only", reply: get},
		{line: "get foo --prefix --count-only --write-out=fields"},
		{line: "get foo --prefix --count-only", reply: get},
		{line: "get foo --print-value-only", reply: get},
		{line: "get foo --consistency=s", reply: get},
		{line: "get nothing", reply: get},
		{line: "get foo --rev=1", reply: get},
		{line: "get foo --rev=100000", reply: get},
		{line: "get foo --min-mod-rev=4 --prefix", reply: get},
		{line: "watch foo --rev=2 --prefix --prev-kv"},
		{line: "del foo1", reply: del},
		{line: "del foo1", reply: del},
		{line: "del foo2 --prev-kv", reply: del},
		{line: "del foo2 foo9", reply: del},
		{line: "txn", reply: &pb.TxnResponse{},
			stdin: "mod(\"foo\") > \"0\"\n\nput a b\nget foo\ndel foo\n\nput c d\n\n"},
		{line: "txn", reply: &pb.TxnResponse{},
			stdin: "value(\"foo\") = \"none\"\ncreate(\"a\") = \"0\"\n\nput a b\n\nget a\nput c d\n\n"},
		{line: "txn", reply: &pb.TxnResponse{}, stdin: "\nput a b\nput a c\n\n\n"},
		// Before the servers choose lease ids, which the hash covers.
		{line: "endpoint hashkv"},
		{line: "endpoint hashkv --rev=3"},
		{line: "lease grant 1000", reply: &pb.LeaseGrantResponse{}},
		{line: "lease grant 100000000000", reply: &pb.LeaseGrantResponse{}},
		{line: "lease list", reply: &pb.LeaseLeasesResponse{}},
		{line: "put leased 1 --lease=LEASE", reply: put},
		{line: "get leased", reply: get},
		{line: "lease timetolive LEASE --keys", reply: &pb.LeaseTimeToLiveResponse{}},
		{line: "lease keep-alive --once LEASE", reply: &pb.LeaseKeepAliveResponse{}},
		{line: "lease revoke LEASE", reply: &pb.LeaseRevokeResponse{}},
		{line: "lease revoke LEASE", reply: &pb.LeaseRevokeResponse{}},
		{line: "lease timetolive LEASE", reply: &pb.LeaseTimeToLiveResponse{}},
		{line: "lease keep-alive --once 7f", reply: &pb.LeaseKeepAliveResponse{}},
		{line: "get leased", reply: get},
		{line: "compaction 3"}, {line: "compaction 3"}, {line: "compaction 5 --physical"},
		{line: "compaction 99999999"},
		{line: "get foo --rev=2", reply: get},
		{line: "watch foo --rev=1"},
		{line: "endpoint status"}, {line: "endpoint health"},
		{line: "member list", reply: &pb.MemberListResponse{}},
		{line: "move-leader 1"}, {line: "move-leader b71f75320dc06a6c"},
		{line: "alarm list", reply: &pb.AlarmResponse{}},
		{line: "alarm disarm", reply: &pb.AlarmResponse{}},
		{line: "downgrade validate 3.6"}, {line: "downgrade validate 3.5"},
		{line: "downgrade cancel"},
		{line: "member remove 1"}, {line: "member promote 1"},
		{line: "lock one echo locked"},
		{line: "elect -l nobody"},
	}
}

// console is one server with what its user has seen so far.
type console struct {
	member *cluster.Member
	names  map[string]string
	lease  string
}

// printed is what one run of etcdctl showed.
type printed struct {
	stdout, stderr string
	code           int
}

func (p printed) String() string {
	return fmt.Sprintf("exit code %d\n%s\n%s", p.code, p.stdout, p.stderr)
}

func newConsole(t *testing.T, program cluster.Program) *console {
	member := cluster.Start(t, program, cluster.Options{})
	return &console{member: member, names: map[string]string{member.Client: "ENDPOINT"}}
}

func TestEtcdctlShowsTheSame(t *testing.T) {
	tool := cluster.Tool(t, "etcdctl")
	for _, format := range formats {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			reference := newConsole(t, cluster.Reference(t))
			subject := newConsole(t, cluster.Subject(t))
			for _, c := range commands() {
				var a, b printed
				var wait sync.WaitGroup
				wait.Go(func() { a = reference.run(tool, format, c) })
				wait.Go(func() { b = subject.run(tool, format, c) })
				wait.Wait()
				if format == "protobuf" && c.reply != nil && a.code == 0 && b.code == 0 {
					if text := c.differenceInProtobuf(a, b); text != "" {
						t.Errorf("etcdctl %s: %s", c.line, text)
					}
					continue
				}
				if a != b {
					t.Errorf("etcdctl %s\netcd: %v\nsubject: %v", c.line, a, b)
				}
			}
		})
	}
}

// run calls etcdctl once. Its output is normalized, except in the protobuf format.
func (c *console) run(tool, format string, run command) printed {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	line := strings.ReplaceAll(run.line, "LEASE", c.lease)
	args := append([]string{"--endpoints=" + c.member.Client, "--write-out=" + format},
		strings.Fields(line)...)
	process := exec.CommandContext(ctx, tool, args...)
	process.Stdin = strings.NewReader(run.stdin)
	var stdout, stderr bytes.Buffer
	process.Stdout, process.Stderr = &stdout, &stderr
	if endless(run.line) {
		// These run until they are stopped: end them when nothing more comes.
		quiet, stop := context.WithTimeout(ctx, watchTime)
		defer stop()
		process = exec.CommandContext(quiet, tool, args...)
		process.Stdout, process.Stderr = &stdout, &stderr
	}
	err := process.Run()
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		code = -2
	}
	if strings.HasPrefix(run.line, "lease grant") && code == 0 {
		c.learnLease(format, stdout.String())
	}
	if format == "protobuf" && run.reply != nil && code == 0 {
		return printed{stdout: stdout.String()}
	}
	result := printed{stdout.String(), stderr.String(), code}
	result.stdout = normalize(result.stdout, c.names)
	result.stderr = normalize(result.stderr, c.names)
	return result
}

// watchTime is how long commands run that do not end by themselves: long enough for what is there.
const watchTime = 1500 * time.Millisecond

func endless(line string) bool {
	return strings.HasPrefix(line, "watch") || strings.HasPrefix(line, "elect -l")
}

var (
	hexLease     = regexp.MustCompile(`lease ([0-9a-f]+) granted`)
	decimalLease = regexp.MustCompile(`"ID"\s*:\s*(\d+)`)
)

// learnLease takes the id of a granted lease from the output, in whichever format.
func (c *console) learnLease(format, output string) {
	var id int64
	switch format {
	case "protobuf":
		var reply pb.LeaseGrantResponse
		if proto.Unmarshal([]byte(output), &reply) == nil {
			id = reply.ID
		}
	case "simple":
		if match := hexLease.FindStringSubmatch(output); match != nil {
			id, _ = strconv.ParseInt(match[1], 16, 64)
		}
	default:
		if match := decimalLease.FindStringSubmatch(output); match != nil {
			id, _ = strconv.ParseInt(match[1], 10, 64)
		}
	}
	if id == 0 {
		return
	}
	c.lease = strconv.FormatInt(id, 16)
	c.names[c.lease] = "LEASE"
	c.names[fmt.Sprintf("%016x", id)] = "LEASE"
	c.names[strconv.FormatInt(id, 10)] = "LEASE"
}

// differenceInProtobuf compares by message, because what is not compared is inside the bytes.
func (c command) differenceInProtobuf(reference, subject printed) string {
	kind := c.reply.ProtoReflect()
	a, b := kind.New().Interface(), kind.New().Interface()
	for text, message := range map[*string]proto.Message{&reference.stdout: a, &subject.stdout: b} {
		if err := proto.Unmarshal([]byte(*text), message); err != nil {
			return fmt.Sprintf("does not decode: %v: %q", err, *text)
		}
	}
	for _, message := range []proto.Message{a, b} {
		hideLeases(message)
	}
	return compare.Difference(nil, a, b)
}

// hideLeases replaces lease ids, which each server has chosen for itself.
func hideLeases(message proto.Message) {
	switch reply := message.(type) {
	case *pb.LeaseGrantResponse:
		reply.ID = 0
	case *pb.LeaseTimeToLiveResponse:
		reply.ID = 0
	case *pb.LeaseKeepAliveResponse:
		reply.ID = 0
	case *pb.LeaseLeasesResponse:
		for _, lease := range reply.Leases {
			lease.ID = 0
		}
	case *pb.RangeResponse:
		for _, kv := range reply.Kvs {
			kv.Lease = 0
		}
	}
}
