// Package hosts makes hosts with networks of their own on this machine, joined by a wire whose
// faults a test decides: delays, lost packets, and cuts, also of one direction alone.
//
// Each host is a network namespace that has no name, so that nothing is left behind, however the
// test ends. Its only way out is a TUN device, whose packets the test itself carries to the others.
package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"trilith.dev/tests/internal/names"
)

const (
	// mtu is that of networks between servers that carry jumbo frames: fewer packets, less work.
	mtu = 9000
	// The namespaces see nothing but each other, so any network will do.
	network = "10.0.0."
	prefix  = "/24"
)

// Host is a network namespace.
type Host struct {
	IP string

	namespace *os.File
	device    *os.File
	// resolver is a file to stand in the place of /etc/resolv.conf, if any.
	resolver string
}

// Network is a number of hosts and the wire between them.
type Network struct {
	Hosts []*Host

	paths [][]*path
	wait  sync.WaitGroup
}

// New makes so many hosts, or skips the test where that is not permitted. All of it is gone when
// the test ends.
func New(t *testing.T, count int, seed int64) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root; what happens between hosts is not tested")
	}
	for _, program := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s; what happens between hosts is not tested", program)
		}
	}
	n := &Network{}
	t.Cleanup(n.close)
	for i := range count {
		host, err := newHost(fmt.Sprintf("%s%d", network, i+1))
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			t.Skipf("no network namespaces with TUN devices; what happens between hosts "+
				"is not tested: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		n.Hosts = append(n.Hosts, host)
	}
	n.carry(seed)
	return n
}

// Clients is the host of the clients, the last one.
func (n *Network) Clients() *Host { return n.Hosts[len(n.Hosts)-1] }

func newHost(ip string) (*Host, error) {
	host := &Host{IP: ip}
	err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		namespace, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		host.namespace = namespace
		if host.device, err = openDevice("wire"); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"link", "set", "lo", "up"},
			{"link", "set", "wire", "mtu", fmt.Sprint(mtu), "up"},
			{"addr", "add", ip + prefix, "dev", "wire"},
		} {
			if output, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, output)
			}
		}
		return nil
	})
	if err != nil {
		host.close()
		return nil, err
	}
	return host, nil
}

// openDevice makes a TUN device in the thread's namespace.
func openDevice(name string) (*os.File, error) {
	device, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	// Bare packets, without a header of the device's own.
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(device), unix.TUNSETIFF,
		uintptr(unsafe.Pointer(request)))
	if errno != 0 {
		_ = unix.Close(device)
		return nil, fmt.Errorf("making a TUN device: %w", errno)
	}
	return os.NewFile(uintptr(device), name), nil
}

func (h *Host) close() {
	for _, file := range []*os.File{h.device, h.namespace} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// Wrapper is what makes a program run on the host when it is put in front of it.
func (h *Host) Wrapper() []string {
	wrapper := []string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), h.namespace.Fd())}
	if h.resolver != "" {
		wrapper = append(wrapper, "unshare", "--mount", "sh", "-c",
			`mount --bind "$0" /etc/resolv.conf && exec "$@"`, h.resolver)
	}
	return wrapper
}

// UseNames lets programs on all hosts ask a DNS server on the host of the clients, which answers
// until the test ends.
func (n *Network) UseNames(t *testing.T, zone names.Zone) {
	t.Helper()
	server := n.Clients()
	var connection net.PacketConn
	err := server.inside(func() (err error) {
		connection, err = net.ListenPacket("udp", server.IP+":53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	go zone.Serve(connection)
	resolver := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver "+server.IP+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, host := range n.Hosts {
		host.resolver = resolver
	}
}

// Dial connects from the host.
func (h *Host) Dial(ctx context.Context, address string) (connection net.Conn, err error) {
	err = h.inside(func() error {
		// The address is a number, so the socket is made by this thread, and stays in this network.
		connection, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	return connection, err
}

func (h *Host) inside(do func() error) error {
	enter := func() error { return unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET) }
	return onThread(enter, do)
}

// home is the network that the test was started in. It is opened once, before the first thread
// leaves it: /proc/self is the main thread, which may be away itself later.
var home = sync.OnceValues(func() (*os.File, error) { return os.Open("/proc/self/ns/net") })

// onThread changes the network of a thread, does something on it, and changes it back. The thread
// is kept: processes that it has started would die with it.
func onThread(change, do func() error) error {
	home, err := home()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := change(); err != nil {
		return fmt.Errorf("changing the network namespace: %w", err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("a thread is lost in another network: %v", err))
		}
	}()
	return do()
}
