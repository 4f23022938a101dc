package tokensource

import "github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"

// exposed returns those of the answer's members that the config exposes, and what
// before has of them where the answer says nothing: few servers repeat at a refresh
// all that they said at first. All else is let go of.
func (s *Source) exposed(members map[string]authserver.Secret, before map[string]string) map[string]authserver.Secret {
	var kept map[string]authserver.Secret
	for _, name := range s.client.Expose {
		value, ok := members[name]
		if !ok && before[name] != "" {
			value, ok = authserver.NewSecret(before[name]), true
		}
		if !ok {
			continue
		}
		if kept == nil {
			kept = make(map[string]authserver.Secret, len(s.client.Expose))
		}
		kept[name] = value
	}
	return kept
}

// textOf is what of it is kept in the vault, sealed.
func textOf(members map[string]authserver.Secret) map[string]string {
	if members == nil {
		return nil
	}
	text := make(map[string]string, len(members))
	for name, value := range members {
		text[name] = value.Reveal()
	}
	return text
}
