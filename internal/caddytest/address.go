package caddytest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports are handed out in order from a block that belongs to this process, as other
// packages' tests take ports at the same time. All blocks are below the ports that
// the system gives to whoever asks for any: one of those could be somebody else's
// before Caddy opens it.
const (
	firstPort = 10_000
	blockSize = 1_000
	blocks    = 22
)

// ports is the block of this process.
var ports struct {
	sync.Mutex
	claim net.Listener // on the block's first port, for as long as the process lives
	first int
	last  int // that was handed out
}

// FreeAddress returns a loopback address that nobody listens on, and another
// one each time.
func FreeAddress(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.claim == nil {
		claimPorts(t)
	}
	for range blockSize {
		if ports.last++; ports.last == ports.first+blockSize {
			ports.last = ports.first + 1
		}
		address := loopback(ports.last)
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// claimPorts finds a block that no other process has.
func claimPorts(t testing.TB) {
	t.Helper()
	for _, block := range rand.Perm(blocks) {
		first := firstPort + block*blockSize
		if l, err := net.Listen("tcp", loopback(first)); err == nil {
			ports.claim, ports.first, ports.last = l, first, first
			return
		}
	}
	t.Fatal("there is no free block of ports")
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
