package upstreamoauth2

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/terminal"
)

func listCommand() *cobra.Command {
	return subcommand("list", "Lists what is granted", `
Lists the grants in the storage: connected; failing, where the last refresh came to
nothing; sign_in_needed, where there is none or it is dead; not_in_config, where no
client of the config lives on it.`, list)
}

func list(ctx context.Context, cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usef("list takes no client: %q is too much", args[0])
	}
	app, err := loadApp(cmd)
	if err != nil {
		return err
	}
	if app.EncryptionKey == "" {
		return needsKey("list", "it shows what is kept")
	}
	connections, err := signin.List(ctx, grants.sealed, app.SignIns())
	if err != nil {
		return err
	}
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		return json.NewEncoder(os.Stdout).Encode(connections)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "CLIENT\tACCOUNT\tSTATE\tSCOPE\tSIGNED IN\tEXPIRES\tLAST ERROR")
	for _, c := range connections {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Client, orDash(c.Account), c.State, orDash(c.Scope),
			dateOf(c.SignedInAt), dateOf(c.ExpiresAt), orDash(c.LastError))
	}
	return table.Flush()
}

func orDash(text string) string { return cmp.Or(terminal.Text(text), "-") }

func dateOf(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}
