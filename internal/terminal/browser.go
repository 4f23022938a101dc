// Package terminal is what a command needs of the machine it runs on: a browser, a
// line that counts down, whose a folder is.
package terminal

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// HasBrowser reports whether a browser can be opened that the person at the terminal
// sees.
func HasBrowser() bool {
	switch {
	case IsRemote():
		return false
	case os.Getenv("BROWSER") != "", runtime.GOOS == "windows", runtime.GOOS == "darwin":
		return true
	}
	return os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "" || os.Getenv("WSL_DISTRO_NAME") != ""
}

// IsRemote reports whether the person at the terminal sits at another machine.
func IsRemote() bool { return os.Getenv("SSH_CONNECTION") != "" }

// Open opens an address in a browser, and does not wait for it.
func Open(address string) error {
	for _, command := range browsers() {
		fields := strings.Fields(command)
		if len(fields) == 0 {
			continue
		}
		if _, err := exec.LookPath(fields[0]); err != nil {
			continue
		}
		cmd := exec.Command(fields[0], withAddress(fields[1:], address)...)
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() { _ = cmd.Wait() }()
		return nil
	}
	return errors.New("no program for it was found")
}

// browsers are the commands to try, in order.
func browsers() []string {
	chosen := filepath.SplitList(os.Getenv("BROWSER"))
	switch runtime.GOOS {
	case "windows":
		return append(chosen, "rundll32 url.dll,FileProtocolHandler")
	case "darwin":
		return append(chosen, "open")
	}
	return append(chosen, "wslview", "xdg-open")
}

// withAddress puts the address where %s stands, or else at the end.
func withAddress(args []string, address string) []string {
	var with []string
	placed := false
	for _, arg := range args {
		placed = placed || strings.Contains(arg, "%s")
		with = append(with, strings.ReplaceAll(arg, "%s", address))
	}
	if !placed {
		with = append(with, address)
	}
	return with
}

// SSHForward returns the command that makes a loopback port of this machine one of the
// machine at which the person sits; "" if that is this machine.
func SSHForward(port string) string {
	fields := strings.Fields(os.Getenv("SSH_CONNECTION")) // client, its port, server, its port
	if len(fields) != 4 {
		return ""
	}
	host := fields[2]
	if user := os.Getenv("USER"); user != "" {
		host = user + "@" + host
	}
	if fields[3] != "22" {
		host = "-p " + fields[3] + " " + host
	}
	return "ssh -N -L " + port + ":127.0.0.1:" + port + " " + host
}
