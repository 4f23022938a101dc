package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program that a test started.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string // the file with all its output
	gone chan struct{}
}

// running holds every live process: a test run that is cut short ends them all (main_test.go).
var running sync.Map // *process -> struct{}

// startProcess starts a program. It is ended with the test, and its output shown if the test failed.
func startProcess(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	_, _ = os.ReadFile(built("stamp")) // see keepFromCache
	p := &process{name: name, cmd: cmd, log: filepath.Join(t.TempDir(), "log"), gone: make(chan struct{})}
	output, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	running.Store(p, struct{}{})
	go func() {
		cmd.Wait()
		running.Delete(p)
		close(p.gone)
	}()
	t.Cleanup(func() {
		p.end()
		if t.Failed() {
			t.Logf("the last output of %s:\n%s", name, p.lastOutput())
		}
	})
	return p
}

// end stops the process and waits until it is gone; it may be called again.
func (p *process) end() {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		<-p.gone
		return
	}
	select {
	case <-p.gone:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}

// kill ends the process without giving it a chance to say goodbye.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.gone
}

func (p *process) exited() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// lastOutput returns the end of what the process has written, without the lines that Caddy writes for
// each request.
func (p *process) lastOutput() string {
	const enough = 30
	output, _ := os.ReadFile(p.log)
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(output)), "\n"), func(line string) bool {
		return strings.Contains(line, `"logger":"http.log.access"`) || strings.Contains(line, `"logger":"http.handlers.reverse_proxy"`)
	})
	return strings.Join(lines[max(0, len(lines)-enough):], "\n")
}
