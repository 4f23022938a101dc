package upstreamoauth2

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
)

// loadApp provisions the app of the config that the command names, and nothing that
// would listen or serve.
func loadApp(cmd *cobra.Command) (*App, error) {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	files, _ := flags.GetStringSlice("envfile")
	for _, file := range files {
		if err := loadEnvironment(file); err != nil {
			return nil, usef("--envfile %s: %w", file, err)
		}
	}
	whole, _, _, err := caddycmd.LoadConfig(flags.String("config"), flags.String("adapter"))
	switch {
	case err != nil:
		return nil, errUse{err}
	case whole == nil:
		return nil, usef("there is no config here: write --config <file>")
	}
	reduced, err := reduceConfig(whole)
	if err != nil {
		return nil, errUse{err}
	}
	ctx, err := caddy.ProvisionContext(reduced)
	if err != nil {
		return nil, errUse{err}
	}
	app, err := ctx.AppIfConfigured("upstream_oauth2")
	if err != nil {
		return nil, errUse{err}
	}
	return app.(*App), nil
}

// reduceConfig keeps of a config what the commands need: the storage, what connections
// to authorization servers may refer to, and our app, to which the clients of handlers
// are added.
func reduceConfig(whole []byte) (*caddy.Config, error) {
	var written caddy.Config
	if err := json.Unmarshal(caddy.RemoveMetaFields(whole), &written); err != nil {
		return nil, err
	}
	app := make(map[string]json.RawMessage)
	if raw := written.AppsRaw["upstream_oauth2"]; raw != nil {
		if err := json.Unmarshal(raw, &app); err != nil {
			return nil, fmt.Errorf("upstream_oauth2: %w", err)
		}
	}
	clients := make(map[string]json.RawMessage)
	if raw := app["clients"]; raw != nil {
		if err := json.Unmarshal(raw, &clients); err != nil {
			return nil, fmt.Errorf("upstream_oauth2: clients: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(written.AppsRaw)) {
		if name != "upstream_oauth2" {
			if err := liftClients(written.AppsRaw[name], clients); err != nil {
				return nil, err
			}
		}
	}
	if len(clients) == 0 {
		return nil, errors.New("the config has no client of upstream_oauth2")
	}
	app["clients"], _ = json.Marshal(clients)

	reduced := &caddy.Config{
		StorageRaw: written.StorageRaw,
		AppsRaw:    make(caddy.ModuleMap),
		// What goes wrong is told by the commands themselves.
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "WARN"}}}},
	}
	reduced.AppsRaw["upstream_oauth2"], _ = json.Marshal(app)
	for _, name := range []string{"tls", "pki"} {
		if raw := written.AppsRaw[name]; raw != nil {
			reduced.AppsRaw[name] = raw
		}
	}
	return reduced, nil
}

// liftClients adds the clients that handlers carry in place, wherever these stand.
func liftClients(raw json.RawMessage, clients map[string]json.RawMessage) error {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		for _, element := range list {
			if err := liftClients(element, clients); err != nil {
				return err
			}
		}
		return nil
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return nil // a value
	}
	if string(object["handler"]) == `"upstream_oauth2"` {
		return liftClient(object, clients)
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if err := liftClients(object[key], clients); err != nil {
			return err
		}
	}
	return nil
}

// liftClient adds the client of a handler, unless that refers to one.
func liftClient(handler, clients map[string]json.RawMessage) error {
	delete(handler, "handler")
	raw, _ := json.Marshal(handler)
	var h Handler
	if err := json.Unmarshal(raw, &h); err != nil {
		return fmt.Errorf("the client of a handler: %w", err)
	}
	if h.Client.Equal(config.Client{}) {
		return nil
	}
	name := h.Name
	if name == "" {
		name = h.Client.Name()
	}
	definition, _ := json.Marshal(h.Client)
	for n := 2; ; n++ {
		known, ok := clients[name]
		var other config.Client
		if !ok || json.Unmarshal(known, &other) == nil && other.Equal(h.Client) {
			break
		}
		if h.Name != "" {
			return fmt.Errorf("client %q is defined twice, and not alike", name)
		}
		name = fmt.Sprintf("%s (%d)", h.Client.Name(), n)
	}
	clients[name] = definition
	return nil
}

// choose returns the client of that name or, without one, the only one that fits.
func (a *App) choose(args []string, fits func(*config.Client) bool) (*signin.Client, error) {
	var fitting []*signin.Client
	var names []string
	for _, c := range a.SignIns() {
		if fits(&c.Definition) {
			fitting, names = append(fitting, c), append(names, c.Name)
		}
	}
	slices.Sort(names)
	switch {
	case len(args) > 1:
		return nil, usef("one client at a time: %q is too much", args[1])
	case len(fitting) == 0:
		return nil, usef("the config has no client that this is for: it is for 'grant authorization_code', and 'grant refresh_token'")
	case len(args) == 0 && len(fitting) > 1:
		return nil, usef("say which client: %s", strings.Join(names, ", "))
	case len(args) == 0:
		return a.keeps(fitting[0])
	}
	for _, c := range fitting {
		if c.Name == args[0] {
			return a.keeps(c)
		}
	}
	return nil, usef("there is no client %q that this is for: there is %s", args[0], strings.Join(names, ", "))
}

// keeps refuses a client whose grant is in the memory of the process that serves
// requests.
func (a *App) keeps(c *signin.Client) (*signin.Client, error) {
	if a.EncryptionKey == "" {
		return nil, needsKey("client "+c.Name, "its grant is to be kept")
	}
	return c, nil
}

// loadEnvironment sets the variables of a file, each a line with KEY=VALUE, unless they
// are set: as 'caddy run' does, which keeps its function to itself.
func loadEnvironment(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok || key == "" || strings.ContainsAny(key, " \t") {
			return fmt.Errorf("line %d is not KEY=VALUE", n)
		}
		value, _, _ = strings.Cut(value, "#")
		value = strings.TrimSpace(value)
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		if _, set := os.LookupEnv(key); !set {
			if err := os.Setenv(key, value); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}
