package e2e

import (
	"flag"
	"log"
	"os"
	"os/signal"
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
	code := m.Run()
	keepFromCache()
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

// keepFromCache keeps go test from repeating the result as (cached): it can't see that the programs under
// test are built from outside this module. What it sees is a file, read by the tests, that has just changed.
func keepFromCache() {
	if err := os.WriteFile(built("stamp"), []byte(time.Now().String()), 0o600); err != nil {
		log.Fatal(err)
	}
}
