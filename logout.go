package upstreamoauth2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

func logoutCommand() *cobra.Command {
	var account string
	cmd := subcommand("logout [<client>]", "Revokes what is granted, and forgets it", `
Has the server revoke a grant (RFC 7009), and forgets it. It is forgotten also where
the server cannot be told; the exit code is 1 then. Where a first refresh token stands
in the config, it stays dead until another one stands there.`,
		func(ctx context.Context, cmd *cobra.Command, args []string) error {
			return logout(ctx, cmd, args, account)
		})
	cmd.Flags().StringVar(&account, "account", "", "Whose grant it is, where each account has its own")
	return cmd
}

func logout(ctx context.Context, cmd *cobra.Command, args []string, account string) error {
	app, err := loadApp(cmd)
	if err != nil {
		return err
	}
	client, err := app.choose(args, (*config.Client).KeepsGrant)
	if err != nil {
		return err
	}
	if err := app.checkFolder(); err != nil {
		return err
	}
	d, err := client.Disconnect(ctx, account)
	switch {
	case errors.Is(err, vault.ErrAbsent):
		return fmt.Errorf("client %q: %w: there is nothing to end", client.Name, err)
	case err != nil:
		return err
	}
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		err = json.NewEncoder(os.Stdout).Encode(struct {
			Client  string `json:"client"`
			Account string `json:"account,omitempty"`
			Revoked bool   `json:"revoked"`
		}{client.Name, account, d.Revoked})
	} else {
		how := "forgotten"
		if d.Revoked {
			how = "revoked and forgotten"
		}
		_, err = fmt.Printf("The grant of %s is %s.\n", client.Name, how)
	}
	switch {
	case d.NotRevoked != nil:
		return fmt.Errorf("the grant is forgotten here and may be good at the server, which could not be told to revoke it: %w", d.NotRevoked)
	case !d.Revoked:
		note("The server has no revocation endpoint that is known: revoke the grant there, in your account's settings.")
	}
	return err
}
