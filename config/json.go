package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// UnmarshalJSON is caddy.StrictUnmarshalJSON with errors that name what to write in
// JSON, rather than types of Go.
func UnmarshalJSON(data []byte, into any) error {
	err := caddy.StrictUnmarshalJSON(data, into)
	mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		if err != nil && strings.HasPrefix(err.Error(), "json: unknown field") {
			return errors.New(strings.TrimPrefix(err.Error(), "json: "))
		}
		return err
	}
	// The path of the field has the name of the embedded struct in front, or that of
	// the map of clients.
	field := strings.TrimPrefix(strings.TrimPrefix(mismatch.Field, "Client."), "clients.")
	return fmt.Errorf("%s: must be %s, not of the type %s", field, wantedJSON(mismatch.Type), mismatch.Value)
}

// wantedJSON says how a type of Go is written in JSON.
func wantedJSON(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return `a list, such as ["one", "two"]`
	case reflect.String:
		return "text in quotes"
	case reflect.Bool:
		return "true or false, without quotes"
	case reflect.Struct, reflect.Map:
		return `an object, such as {"name": "value"}`
	}
	return "a whole number, without quotes"
}
