package upstreamoauth2

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
)

// TestClientsWithAccountsCostLittle: there may be a hundred in a config.
func TestClientsWithAccountsCostLittle(t *testing.T) {
	clients := make(map[string]*config.Client)
	for i := range 100 {
		clients[fmt.Sprintf("client-%d", i)] = &config.Client{
			TokenEndpoint: "https://auth.partner.example/oauth/token",
			ClientID:      "partner",
			ClientSecret:  new(config.Credential("{env.PARTNER_SECRET}")),
			Account:       fmt.Sprintf("{http.auth.user.id}-%d", i), // no two share a cache
		}
	}
	t.Setenv("PARTNER_SECRET", "secret")

	before := heapInUse()
	app := benchApp(t, provisionBench(t, clients))
	held := int64(heapInUse()) - int64(before)
	cleanUp(t, app)

	if most := int64(100 * 64 << 10); held > most {
		t.Errorf("100 clients hold %d bytes, want %d at most", held, most)
	}
}

// TestLogOfAccountsIsASample: callers cannot flood it. Each message is counted by
// itself, and what is about the client as a whole is always there.
func TestLogOfAccountsIsASample(t *testing.T) {
	core, seen := observer.New(zapcore.DebugLevel)
	logs := newLogs(zap.New(core, zap.WithClock(stoppedClock{})))
	ctx := provisionBench(t, nil)
	t.Cleanup(func() { cleanUp(t, benchApp(t, ctx)) })
	c, err := newClient(ctx, &App{logs: logs}, "partner", config.Client{
		TokenEndpoint: "http://127.0.0.1/token",
		ClientID:      "partner",
		ClientSecret:  new(config.Credential("secret")),
		Account:       "{http.auth.user.id}",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.close() })

	for range 100 {
		c.Report(tokencache.Outcome{Account: "a", Err: errDown})
		c.Report(tokencache.Outcome{Account: "b", First: true})
		c.Report(tokencache.Outcome{First: true})
	}

	for _, test := range []struct {
		message string
		level   zapcore.Level
		want    int
	}{
		{"token request failed; requests are answered without going upstream", zapcore.ErrorLevel, 3},
		{"first token obtained", zapcore.DebugLevel, 3},
		{"first token obtained", zapcore.InfoLevel, 100},
	} {
		lines := seen.FilterMessage(test.message).FilterLevelExact(test.level)
		if n := lines.FilterField(zap.String("client", "partner")).Len(); n != test.want {
			t.Errorf("%d lines say %q at level %s, want %d", n, test.message, test.level, test.want)
		}
	}
}

// stoppedClock is a second that does not end.
type stoppedClock struct{}

func (stoppedClock) Now() time.Time                       { return time.Unix(1, 0) }
func (stoppedClock) NewTicker(time.Duration) *time.Ticker { return time.NewTicker(time.Hour) }
