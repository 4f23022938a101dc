package e2e

import (
	"flag"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMain builds what the tests run, and leaves no process behind however the run ends.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := build(); err != nil {
		log.Fatal(err)
	}
	endProcessesWhenCutShort()
	// The parallel tests mostly wait for tokens to grow old.
	if err := flag.Set("test.parallel", "4"); err != nil {
		log.Fatal(err)
	}
	touch := neverCached()
	code := m.Run()
	touch()
	os.Exit(code)
}

// endProcessesWhenCutShort ends every process when the run is interrupted or go test's time limit is
// near: both end this process without any clean-up.
func endProcessesWhenCutShort() {
	cutShort := make(chan os.Signal, 1)
	signal.Notify(cutShort, os.Interrupt, syscall.SIGTERM)
	var limit <-chan time.Time
	if d := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration); d > 0 {
		limit = time.After(d - 5*time.Second)
	}
	go func() {
		select {
		case <-cutShort:
		case <-limit:
		}
		running.Range(func(p, _ any) bool {
			p.(*process).kill()
			return true
		})
		log.Fatal("cut short: every process was ended")
	}()
}

// neverCached keeps go test from repeating an old result as (cached): it can't see that the programs
// under test are built from outside this module. What it sees is a file that the run has read and that is
// brand-new when touch has been called at the end.
func neverCached() (touch func()) {
	stamp := filepath.Join(".built", "stamp")
	_, _ = os.ReadFile(stamp) // whether it is there or not
	return func() {
		if err := os.WriteFile(stamp, []byte(time.Now().String()), 0o600); err != nil {
			log.Fatal(err)
		}
	}
}
