// Package mounts keeps the file systems that tests mount to the process that mounts them.
package mounts

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// done has the id of the process that has a mount namespace of its own. Its children inherit the
// variable, but not the id.
const done = "TRILITH_TEST_MOUNTS"

// Main runs the tests of a package in a mount namespace of their own, where that is permitted: what
// they mount is gone with the last of their processes, however that ends. Where it is not, nothing
// can be mounted either.
func Main(m *testing.M) {
	if os.Getenv(done) != fmt.Sprint(os.Getpid()) {
		if err := again(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// again begins the program anew in a mount namespace of its own; it returns where that is not
// permitted, or when it fails. A program that begins has one thread, so all of it is in there.
func again() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err == unix.EPERM {
		return nil
	} else if err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	// Else what is mounted here would appear outside, too.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	path, err := os.Executable()
	if err != nil {
		return err
	}
	// In the place of what a parent has set.
	if err := os.Setenv(done, fmt.Sprint(os.Getpid())); err != nil {
		return err
	}
	return fmt.Errorf("starting again: %w", unix.Exec(path, os.Args, os.Environ()))
}
