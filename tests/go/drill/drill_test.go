// Package drill walks through what operators do when the space quota is used up, with the stock
// tools, against etcd and against Trilith, and compares what they see.
package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"trilith.dev/tests/internal/cluster"
)

const (
	// One run of a stock tool, a defragmentation among them, on a loaded machine.
	commandTimeout = 60 * time.Second
	// Far more puts than fit into any of the quotas.
	putsMax = 2000
)

var took = regexp.MustCompile(`took [0-9.]+[µnm]?s`)

// desk is one server and the operator in front of it.
type desk struct {
	t      *testing.T
	member *cluster.Member
	// seen is what was printed, with everything hidden that may differ.
	seen []string
}

// status is what the drill reads from `endpoint status`.
type status struct {
	Status struct {
		Header struct {
			Revision int64 `json:"revision"`
		} `json:"header"`
		Size   int64    `json:"dbSize"`
		InUse  int64    `json:"dbSizeInUse"`
		Quota  int64    `json:"dbSizeQuota"`
		Errors []string `json:"errors"`
	}
}

func (d *desk) tool(name string, args ...string) (stdout, stderr string, code int) {
	d.t.Helper()
	return d.toolWith("", name, args...)
}

func (d *desk) toolWith(
	stdin, name string, args ...string,
) (stdout, stderr string, code int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	process := exec.CommandContext(ctx, cluster.Tool(d.t, name), args...)
	var out, err bytes.Buffer
	process.Stdin = strings.NewReader(stdin)
	process.Stdout, process.Stderr = &out, &err
	var exit *exec.ExitError
	if failed := process.Run(); errors.As(failed, &exit) {
		code = exit.ExitCode()
	} else if failed != nil {
		d.t.Fatalf("%s %v: %v", name, args, failed)
	}
	return out.String(), err.String(), code
}

// do runs etcdctl and notes what it shows.
func (d *desk) do(args ...string) (stdout string, code int) {
	d.t.Helper()
	stdout, stderr, code := d.tool("etcdctl", append([]string{"--endpoints=" + d.member.Client},
		args...)...)
	shown := []string{fmt.Sprintf("etcdctl %s: exit code %d", strings.Join(args, " "), code)}
	for line := range strings.Lines(stdout + stderr) {
		// The client's own log has times in it.
		if !strings.HasPrefix(line, `{"level":`) {
			line = strings.ReplaceAll(line, d.member.Client, "ENDPOINT")
			shown = append(shown, took.ReplaceAllString(line, "took *"))
		}
	}
	d.seen = append(d.seen, strings.Join(shown, "\n"))
	return stdout, code
}

func (d *desk) status() status {
	d.t.Helper()
	out, stderr, code := d.tool("etcdctl", "--endpoints="+d.member.Client, "endpoint", "status",
		"--write-out=json")
	var all []status
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 || len(all) != 1 {
		d.t.Fatalf("endpoint status: %v\n%s%s", err, out, stderr)
	}
	if all[0].Status.InUse > all[0].Status.Size {
		d.t.Errorf("%s: more in use than there is: %+v", d.member.Program.Name, all[0])
	}
	return all[0]
}

// statusTable notes the table of the member's status, but for figures that no two programs share.
func (d *desk) statusTable() {
	d.t.Helper()
	out, stderr, code := d.tool("etcdctl", "--endpoints="+d.member.Client, "endpoint", "status",
		"--write-out=table")
	if code != 0 {
		d.t.Fatalf("endpoint status: %s", stderr)
	}
	var headings []string
	for line := range strings.Lines(out) {
		cells := strings.Split(strings.Trim(line, "|\n"), "|")
		if len(cells) == 1 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if headings == nil {
			headings = cells
			d.seen = append(d.seen, strings.Join(headings, "|"))
			continue
		}
		for i, cell := range cells {
			switch headings[i] {
			case "ENDPOINT", "ID", "DB SIZE", "IN USE", "PERCENTAGE NOT IN USE", "RAFT TERM",
				"RAFT INDEX", "RAFT APPLIED INDEX":
			default:
				d.seen = append(d.seen, headings[i]+": "+cell)
			}
		}
	}
}

// fill overwrites a few keys until there is no space left.
func (d *desk) fill(valueBytes int) {
	d.t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	for number := range putsMax {
		// Nothing that could be compressed; and too long for a command line.
		var value strings.Builder
		for value.Len() < valueBytes {
			fmt.Fprintf(&value, "%c", 'A'+random.IntN(57))
		}
		_, stderr, code := d.toolWith(value.String(), "etcdctl", "--endpoints="+d.member.Client, "put",
			fmt.Sprintf("key%d", number%3))
		if code == 0 {
			continue
		}
		const refusal = "etcdserver: mvcc: database space exceeded"
		if !strings.Contains(stderr, refusal) {
			d.t.Fatalf("%s refuses with %q", d.member.Program.Name, stderr)
		}
		if number == 0 {
			d.t.Fatalf("%s has no room at all", d.member.Program.Name)
		}
		return
	}
	d.t.Fatalf("%s takes %d puts of %d bytes: %+v", d.member.Program.Name, putsMax, valueBytes,
		d.status())
}

func (d *desk) drill(quota int64, valueBytes int) {
	d.t.Helper()
	d.fill(valueBytes)
	full := d.status()
	if full.Status.Quota != quota {
		d.t.Errorf("%s reports a quota of %d", d.member.Program.Name, full.Status.Quota)
	}
	if len(full.Status.Errors) != 1 {
		d.t.Errorf("%s reports no alarm: %+v", d.member.Program.Name, full)
	}
	d.statusTable()
	d.do("alarm", "list")
	d.do("put", "more", "1")
	d.do("lease", "grant", "100")
	d.do("get", "key0", "--keys-only")
	d.do("get", "key", "--prefix", "--keys-only", "--consistency=s")
	d.do("del", "key2")
	d.do("put", "more", "1")
	revision := d.status().Status.Header.Revision
	if _, _, code := d.tool("etcdctl", "--endpoints="+d.member.Client, "compact",
		"--physical", fmt.Sprint(revision)); code != 0 {
		d.t.Fatalf("%s does not compact when it is full", d.member.Program.Name)
	}
	// Of a few pages, etcd may use as many after a compaction as before it.
	compacted := d.status()
	if quota > 1<<20 && compacted.Status.InUse >= full.Status.InUse {
		d.t.Errorf("%s uses %d bytes before the compaction and %d after it", d.member.Program.Name,
			full.Status.InUse, compacted.Status.InUse)
	}
	d.do("get", "more")
	d.defragment()
	free := d.status()
	if free.Status.Size >= full.Status.Size {
		d.t.Errorf("%s has given nothing back: %d, then %d bytes", d.member.Program.Name,
			full.Status.Size, free.Status.Size)
	}
	// Room alone does not take the alarm away.
	d.do("put", "more", "1")
	d.do("alarm", "disarm")
	d.do("alarm", "disarm")
	d.do("put", "newkey", "123")
	d.do("get", "newkey")
	if left := d.status(); len(left.Status.Errors) != 0 {
		d.t.Errorf("%s reports %v after all", d.member.Program.Name, left.Status.Errors)
	}
	d.backup()
}

// defragment repeats until a compaction that etcd deletes in the background has left its space.
func (d *desk) defragment() {
	d.t.Helper()
	d.do("defrag")
	if d.member.Program.Name != "etcd" {
		return
	}
	for range 20 {
		if at := d.status(); at.Status.Size < at.Status.Quota/2 {
			return
		}
		d.tool("etcdctl", "--endpoints="+d.member.Client, "defrag")
	}
}

func (d *desk) backup() {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), "backup.db")
	_, stderr, code := d.tool("etcdctl", "--endpoints="+d.member.Client, "snapshot", "save", file)
	if code != 0 {
		d.t.Fatalf("%s: snapshot save: %s", d.member.Program.Name, stderr)
	}
	out, stderr, code := d.tool("etcdutl", "snapshot", "status", file, "--write-out=json")
	if code != 0 || !strings.Contains(out, `"totalKey":`) {
		d.t.Errorf("%s: snapshot status: %s%s", d.member.Program.Name, out, stderr)
	}
}

func TestTheDrill(t *testing.T) {
	for _, scale := range []struct {
		quota      int64
		valueBytes int
	}{{53_248, 512}, {16 << 20, 200_000}} {
		t.Run(fmt.Sprint(scale.quota), func(t *testing.T) {
			t.Parallel()
			var desks []*desk
			for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
				member := cluster.Start(t, program, cluster.Options{Args: []string{
					fmt.Sprintf("--quota-backend-bytes=%d", scale.quota),
					"--auto-compaction-retention=1",
				}})
				d := &desk{t: t, member: member}
				d.drill(scale.quota, scale.valueBytes)
				desks = append(desks, d)
			}
			for i, expected := range desks[0].seen {
				if got := desks[1].seen[i]; got != expected {
					t.Errorf("etcd shows\n%s\nthe subject shows\n%s", expected, got)
				}
			}
		})
	}
}
