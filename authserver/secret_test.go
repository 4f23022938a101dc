package authserver_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"text/template"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// checkHidden reports the secret in text, as it is or as a verb may spell it.
func checkHidden(t *testing.T, text string) {
	t.Helper()
	for how, spelled := range map[string]string{
		"as it is":         clientSecret,
		"quoted":           strings.Trim(fmt.Sprintf("%q", clientSecret), `"`),
		"in hexadecimal":   hex.EncodeToString([]byte(clientSecret)),
		"in HEXADECIMAL":   strings.ToUpper(hex.EncodeToString([]byte(clientSecret))),
		"in hex, spaced":   fmt.Sprintf("% x", clientSecret),
		"in hex, prefixed": fmt.Sprintf("%# x", clientSecret),
		"in base64":        base64.StdEncoding.EncodeToString([]byte(clientSecret)),
		"as bytes":         strings.Trim(fmt.Sprint([]byte(clientSecret)), "[]"),
		"cut":              clientSecret[:8],
	} {
		if strings.Contains(text, spelled) {
			t.Errorf("the secret shows %s: %q", how, text)
		}
	}
}

// The ways in which a program holds a secret.
type (
	exported   struct{ Key authserver.Secret }
	unexported struct{ key authserver.Secret }
	pointed    struct{ key *authserver.Secret }
	embedded   struct{ authserver.Secret }
	boxed      struct{ key any }
	nested     struct {
		Name string
		Deep []map[string]*unexported
		deep [1]exported
	}
)

func holders() map[string]any {
	s := authserver.NewSecret(clientSecret)
	return map[string]any{
		"a value":                             s,
		"a pointer":                           &s,
		"a pointer to a pointer":              func() any { p := &s; return &p }(),
		"a slice":                             []authserver.Secret{s},
		"a slice of pointers":                 []*authserver.Secret{&s},
		"an array":                            [1]authserver.Secret{s},
		"a map":                               map[string]authserver.Secret{"key": s},
		"a map's key":                         map[authserver.Secret]int{s: 1},
		"a slice of anything":                 []any{s, &s},
		"an exported field":                   exported{s},
		"a pointer to an exported field":      &exported{s},
		"an unexported field":                 unexported{s},
		"a pointer to an unexported field":    &unexported{s},
		"a pointer in an unexported field":    pointed{&s},
		"an embedded field":                   embedded{s},
		"a pointer to an embedded field":      &embedded{s},
		"an interface in an unexported field": boxed{s},
		"a pointer behind that interface":     boxed{&s},
		"deep inside":                         nested{Deep: []map[string]*unexported{{"a": {s}}}, deep: [1]exported{{s}}},
		"a token":                             authserver.Token{AccessToken: s, RefreshToken: s},
		"a pointer to a token":                &authserver.Token{AccessToken: s, RefreshToken: s},
		"client_secret_basic":                 authserver.ClientSecretBasic{ID: "app", Secret: s},
		"client_secret_post":                  authserver.ClientSecretPost{ID: "app", Secret: s},
		"members of a token":                  authserver.Token{Members: map[string]authserver.Secret{"member": s}},
		"an authorization request":            authserver.AuthorizationRequest{State: s, Verifier: s},
		"an expected response":                authserver.ExpectedResponse{State: s},
		"a device authorization":              &authserver.DeviceAuthorization{DeviceCode: s},
		"a request": authserver.Request{
			Auth: authserver.ClientSecretPost{ID: "app", Secret: s},
			Held: []authserver.Secret{s},
		},
	}
}

// No verb of fmt, with any flag, shows a secret, wherever it is held.
func TestSecretInFormat(t *testing.T) {
	flags := []string{"", "+", "-", "#", " ", "0", "+#", "# ", "40", ".3", "-40.3"}
	verbs := "vTtbcdoOqxXUeEfFgGspw!" // "!" is none, "w" is for Errorf only
	for name, holder := range holders() {
		t.Run(name, func(t *testing.T) {
			for _, flag := range flags {
				for _, verb := range verbs {
					format := "%" + flag + string(verb)
					checkHidden(t, fmt.Sprintf(format, holder))
					checkHidden(t, fmt.Errorf(format, holder).Error())
				}
			}
			checkHidden(t, fmt.Sprint(holder))
			checkHidden(t, fmt.Sprintln(holder, holder))
		})
	}
}

// A secret on its own says that it is one, so that a log line reads well.
func TestSecretSaysRedacted(t *testing.T) {
	s := authserver.NewSecret(clientSecret)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s", "%.2s"} {
		for _, value := range []any{s, &s} {
			if got := fmt.Sprintf(format, value); got != "[redacted]" {
				t.Errorf("%s of %T is %q", format, value, got)
			}
		}
	}
	if got := s.String(); got != "[redacted]" {
		t.Errorf("String() is %q", got)
	}
}

// Encoders and loggers, of which each has its own way to look inside.
func TestSecretInEncoders(t *testing.T) {
	encoders := map[string]func(w *bytes.Buffer, v any){
		"json":        func(w *bytes.Buffer, v any) { _ = json.NewEncoder(w).Encode(v) },
		"json indent": func(w *bytes.Buffer, v any) { b, _ := json.MarshalIndent(v, "", " "); w.Write(b) },
		"xml":         func(w *bytes.Buffer, v any) { _ = xml.NewEncoder(w).Encode(v) },
		"gob":         func(w *bytes.Buffer, v any) { _ = gob.NewEncoder(w).Encode(v) },
		"template":    func(w *bytes.Buffer, v any) { _ = template.Must(template.New("").Parse("{{.}}")).Execute(w, v) },
		"template printf": func(w *bytes.Buffer, v any) {
			_ = template.Must(template.New("").Parse(`{{printf "%#v" .}}`)).Execute(w, v)
		},
		"log": func(w *bytes.Buffer, v any) { log.New(w, "", 0).Print(v) },

		"slog text": func(w *bytes.Buffer, v any) { slog.New(slog.NewTextHandler(w, nil)).Info("m", "k", v) },
		"slog json": func(w *bytes.Buffer, v any) { slog.New(slog.NewJSONHandler(w, nil)).Info("m", "k", v) },
		"slog group": func(w *bytes.Buffer, v any) {
			slog.New(slog.NewJSONHandler(w, nil)).WithGroup("g").With("k", v).Info("m")
		},

		"zap json":    func(w *bytes.Buffer, v any) { zapLogger(w, zapcore.NewJSONEncoder).Info("m", zap.Any("k", v)) },
		"zap console": func(w *bytes.Buffer, v any) { zapLogger(w, zapcore.NewConsoleEncoder).Info("m", zap.Any("k", v)) },
		"zap reflect": func(w *bytes.Buffer, v any) { zapLogger(w, zapcore.NewJSONEncoder).Info("m", zap.Reflect("k", v)) },
		"zap inline": func(w *bytes.Buffer, v any) {
			zapLogger(w, zapcore.NewJSONEncoder).With(zap.Any("k", v)).Sugar().Infow("m", "k", v)
		},
		"zap sugar": func(w *bytes.Buffer, v any) { zapLogger(w, zapcore.NewJSONEncoder).Sugar().Infof("%+v", v) },
		"zap error": func(w *bytes.Buffer, v any) {
			zapLogger(w, zapcore.NewJSONEncoder).Info("m", zap.Error(fmt.Errorf("wrapped: %v", v)))
		},
	}
	for encoder, encode := range encoders {
		for name, holder := range holders() {
			t.Run(encoder+" of "+name, func(t *testing.T) {
				var w bytes.Buffer
				encode(&w, holder)
				checkHidden(t, w.String())
			})
		}
	}
}

func zapLogger(w *bytes.Buffer, encoder func(zapcore.EncoderConfig) zapcore.Encoder) *zap.Logger {
	return zap.New(zapcore.NewCore(encoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(w), zap.DebugLevel))
}

// Structured logs name the secret's place and say that it is redacted.
func TestSecretInLogs(t *testing.T) {
	s := authserver.NewSecret(clientSecret)
	for _, value := range []any{s, &s, exported{s}} {
		for name, write := range map[string]func(w *bytes.Buffer){
			"json": func(w *bytes.Buffer) { _ = json.NewEncoder(w).Encode(value) },
			"slog": func(w *bytes.Buffer) { slog.New(slog.NewJSONHandler(w, nil)).Info("m", "k", value) },
			"zap":  func(w *bytes.Buffer) { zapLogger(w, zapcore.NewJSONEncoder).Info("m", zap.Any("k", value)) },
		} {
			var w bytes.Buffer
			write(&w)
			if !strings.Contains(w.String(), `"[redacted]"`) {
				t.Errorf("%s of %T: %s", name, value, &w)
			}
		}
	}
}

// A secret cannot be filled from a text, so that a redacted one that was read
// back does not pass for a credential.
func TestSecretIsNotReadBack(t *testing.T) {
	encoded, err := json.Marshal(exported{authserver.NewSecret(clientSecret)})
	if err != nil {
		t.Fatal(err)
	}
	var back exported
	if err := json.Unmarshal(encoded, &back); err == nil && !back.Key.IsZero() {
		t.Errorf("read back as %q", back.Key.Reveal())
	}
}

func TestSecretValue(t *testing.T) {
	full, empty := authserver.NewSecret(clientSecret), authserver.NewSecret("")
	if full.Reveal() != clientSecret || empty.Reveal() != "" || (authserver.Secret{}).Reveal() != "" {
		t.Error("Reveal does not return the value")
	}
	if full.IsZero() || !empty.IsZero() || !(authserver.Secret{}).IsZero() {
		t.Error("IsZero is not about emptiness")
	}
}

// What the runtime prints of a panic that nobody recovers is seen only from
// outside: the test runs itself in a process of its own, to die there.
func TestSecretInPanic(t *testing.T) {
	const variable = "TOKENENDPOINT_TEST_PANIC"
	s := authserver.NewSecret(clientSecret)
	values := map[string]any{
		"value":   s,
		"pointer": &s,
		"struct":  unexported{s},
		"token":   &authserver.Token{AccessToken: s},
		"error":   fmt.Errorf("%+v", exported{s}),
		"errors":  errors.Join(fmt.Errorf("%#v", s), fmt.Errorf("%q", &s)),
	}
	if value, ok := values[os.Getenv(variable)]; ok {
		go panic(value) // where package testing does not recover it
		select {}
	}
	for name := range values {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSecretInPanic$")
			child.Env = append(os.Environ(), variable+"="+name, "GOTRACEBACK=all")
			output, err := child.CombinedOutput()
			if _, died := errors.AsType[*exec.ExitError](err); !died || !strings.Contains(string(output), "panic: ") {
				t.Fatalf("it did not panic (%v): %s", err, output)
			}
			checkHidden(t, string(output))
		})
	}
}
