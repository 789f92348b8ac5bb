package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// A start on a loaded machine, with an election, stays far below this.
	startTimeout = 60 * time.Second
	// A graceful stop waits for running requests; longer means that it hangs.
	stopTimeout  = 30 * time.Second
	pollInterval = 10 * time.Millisecond
	// Large enough for every answer that the tests ask for.
	receiveLimit = 512 << 20
)

// Member is one running (or stopped) server process with its data directory.
type Member struct {
	Program Program
	DataDir string
	// Client is host:port of the client listener.
	Client string
	// Name is what a member of a group is called in its cluster.
	Name string

	t       testing.TB
	wrapper []string
	args    []string
	folder  string
	logPath string
	connect func(context.Context, string) (net.Conn, error)
	cmd     *exec.Cmd
	exited  chan struct{}
	exitErr error
}

// Options change what a member starts with.
type Options struct {
	// DataDir is the data directory; empty makes a temporary one.
	DataDir string
	// Args are appended to the common flags.
	Args []string
	// Wrapper is put in front of the program, for example strace with its options.
	Wrapper []string
}

// Start runs a member and waits until it answers a linearizable read.
func Start(t testing.TB, program Program, options Options) *Member {
	t.Helper()
	member := New(t, program, options)
	if err := member.Run(); err != nil {
		t.Fatal(err)
	}
	return member
}

// New prepares a member without starting it.
//
// The advertised URLs are the same for all members and the listeners are not, so cluster id and
// member id, which are computed from what is advertised, are equal in two one-member clusters.
func New(t testing.TB, program Program, options Options) *Member {
	t.Helper()
	member := prepare(t, program, options)
	member.args = append([]string{
		"--name=one",
		"--data-dir=" + member.DataDir,
		"--listen-client-urls=http://" + member.Client,
		"--advertise-client-urls=http://127.0.0.1:2379",
		fmt.Sprintf("--listen-peer-urls=http://127.0.0.1:%d", FreePort(t)),
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=one=http://127.0.0.1:2380",
		"--log-level=error",
	}, options.Args...)
	return member
}

// prepare makes a member that has no flags yet.
func prepare(t testing.TB, program Program, options Options) *Member {
	t.Helper()
	folder := t.TempDir()
	member := &Member{
		Program: program,
		DataDir: options.DataDir,
		Client:  fmt.Sprintf("127.0.0.1:%d", FreePort(t)),
		t:       t,
		wrapper: options.Wrapper,
		folder:  folder,
		logPath: filepath.Join(folder, "server.log"),
		connect: func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	}
	if member.DataDir == "" {
		member.DataDir = filepath.Join(folder, "data")
	}
	t.Cleanup(func() {
		if member.Alive() {
			member.Kill()
		}
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", program.Name, tail(member.Log(), 30))
		}
	})
	return member
}

// AddArgs gives the member more flags; they count from its next start on.
func (m *Member) AddArgs(args ...string) { m.args = append(m.args, args...) }

// ReplaceArgs puts flags in the place of those that begin so; they count from its next start on.
func (m *Member) ReplaceArgs(beginning string, args ...string) {
	m.args = slices.DeleteFunc(m.args, func(arg string) bool {
		return strings.HasPrefix(arg, beginning)
	})
	m.AddArgs(args...)
}

// Run starts the process and waits until it serves. The log goes on in the same file.
func (m *Member) Run() error {
	if err := m.Launch(); err != nil {
		return err
	}
	return m.WaitReady()
}

// Launch starts the process without waiting for it to serve.
func (m *Member) Launch() error {
	if m.Alive() {
		return errors.New("the member is already running")
	}
	log, err := os.OpenFile(m.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	command := append(append(append([]string{}, m.wrapper...), m.Program.Path), m.args...)
	m.cmd = exec.Command(command[0], command[1:]...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.Dir = m.folder
	// Nothing is left behind when the test process dies; a wrapper and its child are one group.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	m.exited = exited
	go func(cmd *exec.Cmd) {
		m.exitErr = cmd.Wait()
		close(exited)
	}(m.cmd)
	return nil
}

// WaitReady polls until the member answers a linearizable read and has agreed on the versions that
// Status tells, which etcd does some moments after it begins to serve; it fails when it has exited.
func (m *Member) WaitReady() error {
	connection, err := m.dial()
	if err != nil {
		return err
	}
	defer connection.Close()
	kv := pb.NewKVClient(connection)
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("ready")})
		if err == nil {
			err = settled(ctx, pb.NewMaintenanceClient(connection))
		}
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-m.exited:
			return fmt.Errorf("%s has exited (%v) instead of serving:\n%s",
				m.Program.Name, m.exitErr, tail(m.Log(), 20))
		case <-time.After(pollInterval):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve after %v: %w\n%s",
				m.Program.Name, startTimeout, err, tail(m.Log(), 20))
		}
	}
}

// settled returns why the member does not know its storage version yet, or nil once it does.
func settled(ctx context.Context, maintenance pb.MaintenanceClient) error {
	status, err := maintenance.Status(ctx, &pb.StatusRequest{})
	if err == nil && status.StorageVersion == "" {
		return errors.New("the storage version is not settled")
	}
	return err
}

// Alive tells whether the process runs.
func (m *Member) Alive() bool {
	if m.cmd == nil {
		return false
	}
	select {
	case <-m.exited:
		return false
	default:
		return true
	}
}

// Pid is the process id of the running member, or of the wrapper around it.
func (m *Member) Pid() int { return m.cmd.Process.Pid }

// ResidentBytes is the memory that the process has now.
func (m *Member) ResidentBytes() (int, error) { return m.memory("VmRSS") }

// PeakBytes is the most memory that the process has ever had.
func (m *Member) PeakBytes() (int, error) { return m.memory("VmHWM") }

func (m *Member) memory(line string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), line+":")
	var kilobytes int
	_, err = fmt.Sscan(rest, &kilobytes)
	return kilobytes << 10, err
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (m *Member) Kill() {
	_ = syscall.Kill(-m.Pid(), syscall.SIGKILL)
	<-m.exited
}

// Pause stops the process in its tracks, as a machine does that stands still; Resume lets it go on.
func (m *Member) Pause() error { return syscall.Kill(-m.Pid(), syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (m *Member) Resume() error { return syscall.Kill(-m.Pid(), syscall.SIGCONT) }

// Stop asks the process to end with SIGTERM and waits; it is an error if it has to be killed.
func (m *Member) Stop() error {
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if _, err := m.WaitExit(stopTimeout); err != nil {
		m.Kill()
		return fmt.Errorf("%s did not stop on SIGTERM: %w", m.Program.Name, err)
	}
	return nil
}

// WaitExit waits until the process has ended by itself and returns what Wait said.
func (m *Member) WaitExit(timeout time.Duration) (exit error, err error) {
	select {
	case <-m.exited:
		return m.exitErr, nil
	case <-time.After(timeout):
		return nil, fmt.Errorf("still running after %v", timeout)
	}
}

// Log returns what the process has written so far, over all its starts.
func (m *Member) Log() string {
	text, _ := os.ReadFile(m.logPath)
	return string(text)
}

// Dial opens a connection that reconnects quickly; it is closed when the test ends.
func (m *Member) Dial() *grpc.ClientConn {
	m.t.Helper()
	connection, err := m.dial()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { connection.Close() })
	return connection
}

func (m *Member) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+m.Client,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(m.connect),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(receiveLimit)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: pollInterval, Multiplier: 1.5, MaxDelay: time.Second / 5,
			},
			MinConnectTimeout: time.Second,
		}))
}
