package upstreamoauth2

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "upstream-oauth2",
		Usage: "login|list|logout",
		Short: "Signs in for OAuth 2.0 clients, and shows and ends what was granted",
		Long: `
Clients of the grant authorization_code need somebody to sign in once. These
commands do that, show what is kept, and end it. They read the same config as
'caddy run', and need the storage, the environment and the user of the service.

` + exitCodes,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(loginCommand(), listCommand(), logoutCommand())
		},
	})
}

// The exit codes of the commands.
const (
	exitFailed  = 1
	exitUse     = 2
	exitDenied  = 3
	exitStorage = 4
)

const exitCodes = `Exit codes: 0 done; 2 wrong use or config; 3 denied, expired or timed out;
4 storage or key; 1 anything else.`

// errUse is wrong use of a command.
type errUse struct{ error }

func (e errUse) Unwrap() error { return e.error }

func usef(format string, args ...any) error { return errUse{fmt.Errorf(format, args...)} }

// exitCodeOf returns the exit code for an error.
func exitCodeOf(err error) int {
	is := func(target error) bool { return errors.Is(err, target) }
	failed, _ := errors.AsType[*authserver.Error](err)
	switch {
	case isA[errUse](err), isA[*signin.UseError](err), isA[*config.OptionError](err), is(vault.ErrAlive),
		failed != nil && failed.Kind == authserver.Unprepared:
		return exitUse
	case is(signin.ErrExpired), is(context.DeadlineExceeded) && failed == nil && !isA[*vault.StorageError](err),
		failed != nil && (failed.Code == "access_denied" || failed.Code == "expired_token"):
		return exitDenied
	case isA[*vault.StorageError](err), isA[*vault.KeyError](err), isA[*vault.VersionError](err):
		return exitStorage
	}
	return exitFailed
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// subcommand makes a command of ours. Its errors are written as they are, rather than
// to a log: somebody reads them.
func subcommand(use, short, long string, run func(context.Context, *cobra.Command, []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long + "\n\n" + exitCodes, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		return exit(cmd, run(ctx, cmd, args))
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return exit(cmd, errUse{err}) })
	cmd.Flags().StringP("config", "c", "", "Configuration file")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
	cmd.Flags().StringSlice("envfile", nil, "Environment file(s) to load")
	cmd.Flags().Bool("json", false, "Write the result as JSON")
	return cmd
}

// exit writes the error, and returns one that Caddy makes the exit code of.
func exit(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	note("error: %v", err)
	cmd.SilenceErrors = true
	code := exitCodeOf(err)
	if code == exitFailed {
		return err
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, nil)
}

// note writes a line for who runs the command. The result alone goes to standard output.
func note(format string, args ...any) { _, _ = fmt.Fprintf(os.Stderr, format+"\n", args...) }
