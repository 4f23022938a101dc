package vault

import "encoding/base64"

// elsewhereObject is what is sealed here and kept elsewhere.
const elsewhereObject = "elsewhere"

// Seal makes text of content that is to be kept elsewhere, in a browser's cookie, say.
// It can be opened at the same place alone, by every process that has the same key.
func (v *Vault) Seal(content any, place ...string) (string, error) {
	sealed, err := seal(v.config().Key, NewName(place...), elsewhereObject, content)
	return base64.RawURLEncoding.EncodeToString(sealed), err
}

// Open is the way back.
func (v *Vault) Open(text string, content any, place ...string) error {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return errDamaged
	}
	_, err = open(v.config(), NewName(place...), elsewhereObject, sealed, content)
	return err
}
