// Package cluster starts etcd and Trilith members for the black-box tests.
//
// Every member gets free ports and a data directory of its own; both programs get the same flags.
package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Program is an executable that takes etcd's flags.
type Program struct {
	Name string
	Path string
}

// Reference returns etcd 3.7.3, which defines what is right.
func Reference(t testing.TB) Program {
	t.Helper()
	return Program{Name: "etcd", Path: Tool(t, "etcd")}
}

// Subject returns the program under test: Trilith, or etcd again with TRILITH_SUBJECT=etcd, which
// proves that a test finds no difference where there is none.
func Subject(t testing.TB) Program {
	t.Helper()
	if os.Getenv("TRILITH_SUBJECT") == "etcd" {
		return Reference(t)
	}
	path := os.Getenv("TRILITH_BIN")
	if path == "" {
		path = filepath.Join(targetDir(), "debug", "trilith")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no server to test: set TRILITH_BIN, or run `make test`, which builds it: %v", err)
	}
	return Program{Name: "trilith", Path: path}
}

// SubjectIsEtcd tells that the run compares etcd with itself.
func SubjectIsEtcd() bool { return os.Getenv("TRILITH_SUBJECT") == "etcd" }

// Soak tells whether the long forms of the tests were asked for (`make soak`).
func Soak() bool { return os.Getenv("TRILITH_SOAK") != "" }

// Tool returns the path of one of the stock programs that scripts/go-tools.sh builds.
func Tool(t testing.TB, name string) string {
	t.Helper()
	folder := os.Getenv("TRILITH_TOOLS")
	if folder == "" {
		folder = filepath.Join(moduleDir(t), "bin")
	}
	path := filepath.Join(folder, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing, scripts/go-tools.sh builds it: %v", name, err)
	}
	return path
}

// Example returns the path of one of our programs that exist for tests only.
func Example(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(targetDir(), "debug", "examples", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing, `cargo build --workspace --examples` builds it: %v", name, err)
	}
	return path
}

// EnvInt reads a number from the environment, or returns fallback when it is not set.
func EnvInt(t testing.TB, name string, fallback int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s is not a number: %v", name, err)
	}
	return number
}

// The ports that FreePort hands out. They end below those that Linux gives to outgoing
// connections: one of those could otherwise take a port while its server restarts.
const (
	lowestPort  = 16384
	highestPort = 32767
)

// FreePort returns a loopback port that nobody listens on and that no other call returns, in this
// process or in one of another package's tests, until this process ends.
func FreePort(t testing.TB) int {
	t.Helper()
	ports := highestPort - lowestPort + 1
	first := rand.IntN(ports)
	for i := range ports {
		port := lowestPort + (first+i)%ports
		if reserve(port) {
			return port
		}
	}
	t.Fatalf("all ports from %d to %d are taken", lowestPort, highestPort)
	return 0
}

// reserved keeps the reservations of this process: a socket that the collector closes is free again.
var reserved sync.Map

// reserve takes a port among all tests of this machine. An abstract socket of its number stands for
// it, which the kernel takes away with the process.
func reserve(port int) bool {
	mark, err := net.Listen("unix", fmt.Sprintf("@trilith-test-port-%d", port))
	if err != nil {
		return false
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		mark.Close()
		return false
	}
	reserved.Store(port, mark)
	return listener.Close() == nil
}

func targetDir() string {
	if folder := os.Getenv("CARGO_TARGET_DIR"); folder != "" {
		return folder
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	return filepath.Join(cache, "trilith", "target")
}

// moduleDir finds tests/go from the folder of the package whose tests run.
func moduleDir(t testing.TB) string {
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder
		}
		if folder == filepath.Dir(folder) {
			t.Fatal("no go.mod above the test's folder")
		}
		folder = filepath.Dir(folder)
	}
}

// tail returns the last lines of text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
