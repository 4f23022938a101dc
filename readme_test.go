package upstreamoauth2

import (
	"os"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestReadmeTables loads what README.md says to write for each way to prove the
// client and for each grant: the last column, line by line. Its other examples
// are loaded by .ci/run.
func TestReadmeTables(t *testing.T) {
	for _, env := range []string{"PARTNER_SECRET", "ZOOM_ACCOUNT"} {
		t.Setenv(env, strings.Repeat("secret", 8))
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, more := range map[string]string{
		"### Client authentication": "",
		"### Grants":                "client_secret {env.PARTNER_SECRET}\n",
	} {
		_, section, _ := strings.Cut(string(readme), heading)
		section, _, _ = strings.Cut(section, "\n##")
		rows := 0
		for row := range strings.Lines(section) {
			columns := strings.Split(strings.Trim(row, "|\n"), " | ")
			if !strings.HasPrefix(row, "| `") && !strings.HasPrefix(row, "| any other") {
				continue
			}
			rows++
			t.Run(strings.Trim(columns[0], " `"), func(t *testing.T) {
				lines := strings.ReplaceAll(strings.ReplaceAll(columns[len(columns)-1], "<br>", "\n"), "`", "")
				caddyfile := "http://127.0.0.1:8080 {\n\tupstream_oauth2 {\n\t\tissuer https://auth.partner.example\n" +
					"client_id partner\n" + more + lines + "\n}\n}\n"
				if err := caddytest.Validate(caddyfile); err != nil {
					t.Errorf("%v, in\n%s", err, caddyfile)
				}
			})
		}
		if rows < 6 {
			t.Errorf("%s: %d rows were found", heading, rows)
		}
	}
}
