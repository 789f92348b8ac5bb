package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"trilith.dev/tests/internal/cluster"
)

const (
	shortCuts, soakCuts = 3, 200
	// controlCuts is within how many cuts a server that does not sync has to lose something.
	controlCuts = 5
	// imageBytes is the size of the sparse file that holds the file system.
	imageBytes = 2 << 30
	// FS_IOC_SHUTDOWN of Linux, and its flag that drops everything that is not on the disk yet,
	// the journal included.
	ioctlShutdown       = 0x8004587d
	shutdownNoLogFlush  = uint32(2)
	unsafeNoFsyncOption = "--unsafe-no-fsync"
)

// disk is an ext4 file system in a file, whose power can be cut.
type disk struct {
	image, mount string
}

// newDisk makes and mounts a file system, or skips the test where that is not possible.
func newDisk(t *testing.T) *disk {
	t.Helper()
	folder := t.TempDir()
	d := &disk{image: filepath.Join(folder, "image"), mount: filepath.Join(folder, "mount")}
	if os.Geteuid() != 0 {
		t.Skip("mounting a loop device needs root; the power cuts are not tested")
	}
	if err := os.Mkdir(d.mount, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, imageBytes); err != nil {
		t.Fatal(err)
	}
	if err := command("mkfs.ext4", "-q", "-F", d.image); err != nil {
		t.Skipf("no mkfs.ext4; the power cuts are not tested: %v", err)
	}
	if err := d.attach(); err != nil {
		t.Skipf("no loop devices here; the power cuts are not tested: %v", err)
	}
	t.Cleanup(func() { _ = d.detach() })
	return d
}

func (d *disk) attach() error { return command("mount", "-o", "loop", d.image, d.mount) }

func (d *disk) detach() error { return command("umount", d.mount) }

// cut drops all that is not on the disk and refuses everything from then on.
func (d *disk) cut() error {
	root, err := os.Open(d.mount)
	if err != nil {
		return err
	}
	defer root.Close()
	flag := shutdownNoLogFlush
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, root.Fd(), ioctlShutdown,
		uintptr(unsafe.Pointer(&flag)))
	if errno != 0 {
		return fmt.Errorf("FS_IOC_SHUTDOWN: %w", errno)
	}
	return nil
}

// cutPowerUnder makes a trial whose fault is a power cut of the member's disk.
func cutPowerUnder(t *testing.T, args ...string) *trial {
	d := newDisk(t)
	member := cluster.New(t, cluster.Subject(t), cluster.Options{
		DataDir: filepath.Join(d.mount, "data"), Args: args,
	})
	if err := member.Run(); err != nil {
		t.Fatal(err)
	}
	return &trial{server: member, writes: 300, size: 64, fault: func() error {
		if err := d.cut(); err != nil {
			return err
		}
		member.Kill()
		if err := d.detach(); err != nil {
			return err
		}
		return d.attach()
	}}
}

func TestNothingIsLostByPowerCuts(t *testing.T) {
	tr := cutPowerUnder(t)
	if err := tr.run(t, rounds(t, shortCuts, soakCuts), pickSeed(t)); err != nil {
		t.Error(err)
	}
}

// A server that does not sync has to fail the test above; else the cuts would prove nothing.
func TestPowerCutsShowAMissingSync(t *testing.T) {
	tr := cutPowerUnder(t, unsafeNoFsyncOption)
	err := tr.run(t, controlCuts, pickSeed(t))
	if err == nil {
		t.Errorf("%d power cuts have lost nothing of a server that does not sync", controlCuts)
	} else {
		t.Logf("as it should: %.300v", err)
	}
}

func command(name string, args ...string) error {
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, output)
	}
	return nil
}

func removeAll(folder string) error { return os.RemoveAll(folder) }
