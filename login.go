package upstreamoauth2

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"github.com/spf13/cobra"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/terminal"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// loginTime is how long somebody may take by default.
const loginTime = 10 * time.Minute

// login is one run of the command.
type login struct {
	client  *signin.Client
	account string
	replace bool

	device, paste, noBrowser bool
	listen                   string
	timeout                  time.Duration
	refreshTokenFile         string
	json                     bool
}

func loginCommand() *cobra.Command {
	var l login
	cmd := subcommand("login [<client>]", "Signs in for a client, once", `
Signs in for a client, and keeps what is granted in the storage, sealed. A Caddy
that is running finds it within 5 seconds while requests ask for it, without a
reload. <client> may be left out where the config has one that fits.

The command opens a browser where there is one. On a remote machine, and in a
container, it shows a code to be typed on any other device, where the server has
such; else an address to open anywhere, whose last address is pasted here or comes
through an SSH tunnel. --device, --paste and --no-browser choose.

--refresh-token-file takes a refresh token that was had elsewhere, and spends it
once: whatever had it must not use it any more.

A grant that may still be good is replaced with --replace only.`,
		func(ctx context.Context, cmd *cobra.Command, args []string) error {
			l.json, _ = cmd.Flags().GetBool("json")
			return l.run(ctx, cmd, args)
		})
	flags := cmd.Flags()
	flags.StringVar(&l.account, "account", "", "Whose grant it is, where each account has its own")
	flags.BoolVar(&l.device, "device", false, "Show a code to be typed on another device")
	flags.BoolVar(&l.paste, "paste", false, "Open no browser, and take the last address of one elsewhere")
	flags.BoolVar(&l.noBrowser, "no-browser", false, "Open no browser, and wait for one to come")
	flags.StringVar(&l.listen, "listen", "", "Where to wait for the browser, such as 127.0.0.1:8400, for servers that want a fixed redirect URI (default: a free port)")
	flags.DurationVar(&l.timeout, "timeout", loginTime, "How long somebody may take")
	flags.StringVar(&l.refreshTokenFile, "refresh-token-file", "", "Take the refresh token in this file; - is standard input")
	flags.BoolVar(&l.replace, "replace", false, "Replace a grant that may still be good")
	return cmd
}

func (l *login) run(ctx context.Context, cmd *cobra.Command, args []string) error {
	if err := l.check(); err != nil {
		return err
	}
	app, err := loadApp(cmd)
	if err != nil {
		return err
	}
	fits := (*config.Client).NeedsSignIn
	if l.refreshTokenFile != "" {
		fits = (*config.Client).KeepsGrant
	}
	if l.client, err = app.choose(args, fits); err != nil {
		return err
	}
	if err := app.checkFolder(); err != nil {
		return err
	}
	l.announce(app)
	if err := l.client.Ready(ctx, l.account, l.replace); err != nil {
		return withReplaceHint(err)
	}
	result, err := l.signIn(ctx)
	if err != nil {
		return withReplaceHint(err)
	}
	return l.tell(result)
}

// check refuses flags that contradict each other.
func (l *login) check() error {
	ways := 0
	for _, chosen := range []bool{l.device, l.paste, l.noBrowser, l.refreshTokenFile != ""} {
		if chosen {
			ways++
		}
	}
	switch {
	case ways > 1:
		return usef("choose one of --device, --paste, --no-browser and --refresh-token-file")
	case l.listen != "" && (l.device || l.refreshTokenFile != ""):
		return usef("--listen is for a browser: remove it")
	case l.timeout <= 0:
		return usef("--timeout must be longer than nothing")
	}
	return nil
}

// checkFolder refuses a storage folder into which the service could not follow: what
// is written there belongs to who writes it.
func (a *App) checkFolder() error {
	folder := a.folder()
	if folder == "" {
		return nil
	}
	for _, f := range []string{filepath.Join(folder, "upstream_oauth2"), folder} {
		if owner := terminal.OtherOwner(f); owner != "" {
			return usef("the storage folder %s belongs to the user %s, who could not read what is written now; run this instead:\n%s", f, owner, terminal.AsUser(owner))
		}
	}
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		note("warning: the storage folder %s is not there yet; if the service runs as another user, or with another home, it looks elsewhere: run this command as that user", folder)
	}
	if service := terminal.DataFolderOf("caddy"); service != "" && folder == caddy.AppDataDir() && folder != service {
		note("warning: this writes to %s; a service of the user caddy looks in %s: if that is yours, run this instead:\n%s", folder, service, terminal.AsUser("caddy"))
	}
	return nil
}

// folder is the storage's, if it is one.
func (a *App) folder() string {
	if files, ok := a.storage.(*certmagic.FileStorage); ok {
		return files.Path
	}
	return ""
}

// announce shows what is about to be asked for.
func (l *login) announce(app *App) {
	note("client:  %s", l.client.Name)
	if l.account != "" {
		note("account: %s", l.account)
	}
	note("scope:   %s", cmp.Or(strings.Join(l.client.Definition.Scope, " "), "what the server gives by default"))
	if folder := app.folder(); folder != "" {
		note("storage: %s", folder)
	} else {
		note("storage: %T", app.storage)
	}
}

func withReplaceHint(err error) error {
	if errors.Is(err, vault.ErrAlive) {
		return fmt.Errorf("%w: write --replace to replace it, or see 'caddy upstream-oauth2 list'", err)
	}
	return err
}

// signIn goes the way that was chosen, or the one that fits the surroundings.
func (l *login) signIn(ctx context.Context) (*signin.Result, error) {
	if l.refreshTokenFile != "" {
		token, err := readRefreshToken(l.refreshTokenFile)
		if err != nil {
			return nil, err
		}
		return l.client.Import(ctx, l.account, token, l.replace)
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	chosen := l.paste || l.noBrowser || l.listen != ""
	if l.device || !chosen && !terminal.HasBrowser() && l.client.TakesDevices(ctx, l.account) {
		return l.withDevice(ctx)
	}
	result, err := l.withBrowser(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("nobody signed in within %s: %w", l.timeout, err)
	}
	return result, err
}

func readRefreshToken(file string) (authserver.Secret, error) {
	read := func() ([]byte, error) { return os.ReadFile(file) }
	if file == "-" {
		read = func() ([]byte, error) { return io.ReadAll(os.Stdin) }
	}
	text, err := read()
	if err != nil {
		return authserver.Secret{}, usef("--refresh-token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return authserver.Secret{}, usef("--refresh-token-file: %s must hold one refresh token, and nothing else", file)
	}
	return authserver.NewSecret(token), nil
}

// withDevice has somebody type a code on another device.
func (l *login) withDevice(ctx context.Context) (*signin.Result, error) {
	device, err := l.client.BeginDevice(ctx, l.account)
	if err != nil {
		return nil, err
	}
	note("\nOpen this address on any device:\n")
	note("%s", cmp.Or(device.VerificationURIComplete, device.VerificationURI))
	note("\nand enter, or compare, the code %s\n", device.UserCode)
	end := device.ExpiresAt
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	stop := terminal.Countdown(os.Stderr, "Waiting for the code to be confirmed", end)
	defer stop()
	result, err := l.client.PollDevice(ctx, device, l.replace, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("nobody confirmed the code within %s: %w", l.timeout, err)
	}
	return result, err
}

// loginResult is the result as JSON.
type loginResult struct {
	Client       string    `json:"client"`
	Account      string    `json:"account,omitempty"`
	ScopeAsked   string    `json:"scope_asked,omitempty"`
	ScopeGranted string    `json:"scope_granted,omitempty"`
	ExpiresAt    time.Time `json:"expires_at"`
	Renewable    bool      `json:"renewable"`
}

// tell writes the result, and what is to be known of it.
func (l *login) tell(r *signin.Result) error {
	if !r.Renewable {
		note("warning: the server gave no refresh token, so somebody has to sign in again when the access token expires. Servers want to be asked for one: add 'offline_access' to 'scope', or write 'authorization_param access_type offline' and 'authorization_param prompt consent' in the block of 'grant authorization_code'. If the server's access tokens do not expire, write how long they are good as 'default_lifetime'")
	}
	if missing := missingScopes(r.Asked, r.Granted); missing != "" {
		note("warning: asked for and not granted: %s", terminal.Text(missing))
	}
	if err := l.write(r); err != nil {
		return err
	}
	if r.Unusable != nil {
		return fmt.Errorf("the grant is kept, but its access token cannot be used: %w", r.Unusable)
	}
	return nil
}

// write writes the result to standard output.
func (l *login) write(r *signin.Result) error {
	if l.json {
		return json.NewEncoder(os.Stdout).Encode(loginResult{r.Client, r.Account, r.Asked, r.Granted, r.ExpiresAt.UTC().Truncate(time.Second), r.Renewable})
	}
	who := r.Client
	if r.Account != "" {
		who += ", account " + r.Account
	}
	until := "is renewed from then on"
	if !r.Renewable {
		until = "cannot be renewed"
	}
	_, err := fmt.Printf("Signed in for %s. Scope granted: %s. The access token expires %s, and %s.\n",
		who, cmp.Or(terminal.Text(r.Granted), "not said"), r.ExpiresAt.Local().Format("2006-01-02 15:04:05 MST"), until)
	return err
}

// missingScopes are those asked for that were not granted.
func missingScopes(asked, granted string) string {
	has := make(map[string]bool)
	for _, scope := range strings.Fields(granted) {
		has[scope] = true
	}
	var missing []string
	for _, scope := range strings.Fields(asked) {
		if !has[scope] && scope != "offline_access" { // which many servers grant and do not list
			missing = append(missing, scope)
		}
	}
	return strings.Join(missing, " ")
}
