package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// cluster is a number of Caddys that keep their grants in one storage.
type cluster struct {
	t        *testing.T
	server   *authServer
	client   client
	api      *resource
	storage  *storage
	key      string // that seals what is kept
	lines    string // of the directive
	replicas []*replica

	searched sync.Once

	mu   sync.Mutex
	logs []string // the files of all processes there have been
}

// replica is one of them, which comes back after it was ended.
type replica struct {
	*cluster
	URL       string
	port      int
	caddyfile string
	home      string
	process   *process
}

// startCluster starts n Caddys that put the client's tokens before the API. When the test ends, their logs
// and the storage have been searched for every secret and token.
func startCluster(t *testing.T, n int, s *storage, server *authServer, c client, api *resource, lines ...string) *cluster {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	cl := &cluster{
		t: t, server: server, client: c, api: api, storage: s,
		key: base64.StdEncoding.EncodeToString(key), lines: strings.Join(lines, "\n"),
	}
	for range n {
		cl.replicas = append(cl.replicas, cl.newReplica())
	}
	for _, r := range cl.replicas {
		r.start()
	}
	t.Cleanup(cl.searchForSecrets)
	return cl
}

func (cl *cluster) newReplica() *replica {
	cl.t.Helper()
	r := &replica{cluster: cl, port: freePort(cl.t), home: cl.t.TempDir()}
	r.URL, r.caddyfile = "http://"+loopback(r.port), filepath.Join(r.home, "Caddyfile")
	text := fmt.Sprintf(`{
	admin off
	auto_https off
	persist_config off
	default_bind 127.0.0.1
	debug
	%s
	upstream_oauth2 {
		encryption_key {env.ENCRYPTION_KEY}
	}
}

%s {
	upstream_oauth2 partner {
		%s
	}
	reverse_proxy %s
}
`, cl.storage.option, r.URL, cl.lines, cl.api.URL)
	if err := os.WriteFile(r.caddyfile, []byte(text), 0o600); err != nil {
		cl.t.Fatal(err)
	}
	return r
}

// start starts it, also again.
func (r *replica) start() {
	r.t.Helper()
	cmd := exec.Command(built(r.storage.caddy), "run", "--config", r.caddyfile)
	cmd.Env = append(os.Environ(), "CLIENT_SECRET="+r.client.Secret, "ENCRYPTION_KEY="+r.key,
		"HOME="+r.home, "XDG_CONFIG_HOME="+r.home, "XDG_DATA_HOME="+r.home)
	r.process = startProcess(r.t, "caddy", cmd)
	r.mu.Lock()
	r.logs = append(r.logs, r.process.log)
	r.mu.Unlock()
	eventually(r.t, "caddy answers", func() bool {
		if r.process.exited() {
			r.t.Fatal("caddy has exited")
		}
		return listening(r.port)
	})
}

// load sends requests to all of them until the test ends.
func (cl *cluster) load(callers int) []*traffic {
	var flows []*traffic
	for _, r := range cl.replicas {
		flows = append(flows, startTraffic(cl.t, r.URL, callers))
	}
	return flows
}

// logged returns how often a message stands in the logs.
func (cl *cluster) logged(message string) int {
	n := 0
	for _, text := range cl.texts() {
		n += strings.Count(text, message)
	}
	return n
}

func (cl *cluster) texts() []string {
	cl.t.Helper()
	cl.mu.Lock()
	defer cl.mu.Unlock()
	var texts []string
	for _, file := range cl.logs {
		text, err := os.ReadFile(file)
		if err != nil {
			cl.t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}

// searchForSecrets is called at the end of the test at the latest. Once is enough.
func (cl *cluster) searchForSecrets() { cl.searched.Do(cl.search) }

func (cl *cluster) search() {
	cl.t.Helper()
	dump, err := cl.storage.dump()
	if err != nil {
		cl.t.Error(err)
	}
	if !strings.Contains(dump, "upstream_oauth2") {
		cl.t.Error("nothing is kept in the storage")
	}
	secrets := append(append(cl.server.secrets(), cl.api.seen()...), cl.key, cl.client.Secret)
	var spellings []string
	for _, secret := range secrets {
		spellings = append(spellings, secret, base64.StdEncoding.EncodeToString([]byte(secret)))
	}
	for i, text := range append(cl.texts(), dump) {
		for at := range occurrences(text, spellings) {
			cl.t.Errorf("a secret stands in text %d of the logs and the storage, after: …%q", i, text[max(0, at-300):at])
		}
	}
}
