package mounts

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m) }

// folder is where the process that is killed mounts a file system.
const folder = "TRILITH_TEST_MOUNT_FOLDER"

// Nobody else sees what a test mounts, so nothing is left when it is killed.
func TestAKilledTestLeavesNothingMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting tmpfs needs root")
	}
	if path := os.Getenv(folder); path != "" {
		mountAndStay(t, path)
	}
	path := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	killed := exec.Command(self, "-test.run=^TestAKilledTestLeavesNothingMounted$")
	killed.Env = append(os.Environ(), folder+"="+path)
	output, err := killed.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	// Beside what the runner of the tests prints.
	var said string
	for lines := bufio.NewScanner(output); said == "" && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "mounted") {
			said = lines.Text()
		}
	}
	if err := killed.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = killed.Wait()
	if said != "mounted" {
		t.Fatalf("it has not mounted anything: %q", said)
	}
	mounted, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounted), path) {
		t.Errorf("it is still mounted:\n%s", mounted)
		_ = unix.Unmount(path, 0)
	}
}

func mountAndStay(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=1M"); err != nil {
		os.Stdout.WriteString("mounted nothing: " + err.Error() + "\n")
		t.Fatal(err)
	}
	os.Stdout.WriteString("mounted\n")
	select {}
}
