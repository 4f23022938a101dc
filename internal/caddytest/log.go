package caddytest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Log is all that Caddy has logged so far, one JSON object a line.
func (c *Caddy) Log() string {
	c.t.Helper()
	log, err := os.ReadFile(c.LogFile)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(log)
}

// What the module logs about its token requests.
const (
	LogObtained      = "first token obtained"
	LogRenewed       = "token renewed"
	LogObtainedAgain = "token obtained again"
	LogFailed        = "token request failed; requests are answered without going upstream"
	LogFailedEarly   = "token request failed; the token in hand is still served"
)

// Logged returns the log lines with that message.
func (c *Caddy) Logged(message string) []map[string]any {
	c.t.Helper()
	var lines []map[string]any
	for text := range strings.Lines(c.Log()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == message {
			lines = append(lines, line)
		}
	}
	return lines
}

// AwaitLog waits for the first log line with that message. What a token request
// came to is logged when the requests that waited for it have been let go.
func (c *Caddy) AwaitLog(message string) map[string]any {
	c.t.Helper()
	Eventually(c.t, "the log said "+message, func() bool { return len(c.Logged(message)) > 0 })
	return c.Logged(message)[0]
}

// Tracing makes Caddy log each handler that a request enters; see Entered.
const Tracing = `{
	servers {
		trace
	}
}
`

// Entered is how many requests have come to our handler, with Tracing.
func (c *Caddy) Entered() int {
	c.t.Helper()
	return strings.Count(c.Log(), `"logger":"http.log.trace","msg":"upstream_oauth2"`)
}

// Failure is what the log says of the first token request that failed and left
// requests without a token.
func (c *Caddy) Failure() string {
	c.t.Helper()
	return fmt.Sprint(c.AwaitLog(LogFailed)["error"])
}

// WantNoAlarm fails the test if anything was logged at error level.
func (c *Caddy) WantNoAlarm() {
	c.t.Helper()
	for text := range strings.Lines(c.Log()) {
		if strings.HasPrefix(text, `{"level":"error"`) {
			c.t.Errorf("the log has %s", text)
		}
	}
}
