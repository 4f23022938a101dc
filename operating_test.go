package upstreamoauth2

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMetricsAreDocumented: the page has each metric, and what queries them for others
// knows no other.
func TestMetricsAreDocumented(t *testing.T) {
	known := metricNames()
	page := read(t, "docs/operating.md")
	for _, name := range known {
		if !strings.Contains(page, "| `"+strings.TrimPrefix(name, metricPrefix)) {
			t.Errorf("docs/operating.md has no row for %s", name)
		}
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)(?:\\{[a-z,]+\\})?` \\| (?:counter|gauge|histogram)")
	for _, match := range row.FindAllStringSubmatch(page, -1) {
		if !slices.Contains(known, metricPrefix+match[1]) {
			t.Errorf("docs/operating.md has a row for %s, which there is not", match[1])
		}
	}
	for _, file := range []string{"contrib/prometheus/rules.yml", "contrib/prometheus/rules_test.yml", "contrib/grafana/upstream_oauth2.json"} {
		queried := regexp.MustCompile(metricPrefix+`[a-z_]+`).FindAllString(read(t, file), -1)
		if len(queried) == 0 {
			t.Errorf("%s queries nothing", file)
		}
		for _, name := range queried {
			if !slices.Contains(known, strings.TrimSuffix(name, "_bucket")) {
				t.Errorf("%s queries %s, which there is not", file, name)
			}
		}
	}
}

// TestAlertsAreDocumented.
func TestAlertsAreDocumented(t *testing.T) {
	page := read(t, "docs/operating.md")
	for _, match := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(read(t, "contrib/prometheus/rules.yml"), -1) {
		if !strings.Contains(page, "| `"+match[1]+"` |") {
			t.Errorf("docs/operating.md has no row for the alert %s", match[1])
		}
	}
}

// metricNames are those of all metrics, whether or not there is a series.
func metricNames() []string {
	descs := make(chan *prometheus.Desc, 100)
	for _, c := range collectors {
		c.Describe(descs)
	}
	close(descs)
	var names []string
	for d := range descs {
		name := regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())
		names = append(names, name[1])
	}
	return names
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
