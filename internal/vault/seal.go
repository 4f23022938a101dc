package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strconv"
)

const version = 1

// envelope is a sealed object as it stands in the storage: all that is in the clear,
// and the rest.
type envelope struct {
	Version int    `json:"v"`
	KeyID   string `json:"kid"`
	Salt    []byte `json:"salt"`
	Sealed  []byte `json:"sealed"`
}

// errDamaged is of an object that was torn, or tampered with.
var errDamaged = errors.New("it is damaged")

// seal encrypts an object of a grant with AES-256-GCM. Every object has a key of
// its own, for random nonces are good for 2^32 messages of one key (NIST SP 800-38D
// section 8.3). It is bound to its place, so that nothing can be moved.
func seal(key Key, name Name, object string, content any) ([]byte, error) {
	if key.IsZero() {
		return nil, &KeyError{}
	}
	plain, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	e := envelope{Version: version, KeyID: key.id, Salt: make([]byte, keySize)}
	_, _ = rand.Read(e.Salt) // never fails
	e.Sealed = e.cipher(key).Seal(nil, nil, plain, e.place(name, object))
	return json.Marshal(e)
}

// open is the way back. The error is a *VersionError, a *KeyError or errDamaged. old
// says that the object is sealed with the previous key.
func open(c Config, name Name, object string, sealed []byte, content any) (old bool, err error) {
	var e envelope
	err = json.Unmarshal(sealed, &e)
	if e.Version != version && e.Version != 0 {
		return false, &VersionError{Version: e.Version} // whatever the rest may look like
	}
	if err != nil || e.Version == 0 {
		return false, errDamaged
	}
	var key Key
	switch e.KeyID {
	case c.Key.id:
		key = c.Key
	case c.PreviousKey.id:
		key, old = c.PreviousKey, true
	}
	if key.IsZero() {
		return false, &KeyError{KeyID: e.KeyID, have: c.Key.id}
	}
	plain, err := e.cipher(key).Open(nil, nil, e.Sealed, e.place(name, object))
	if err != nil {
		return old, errDamaged
	}
	if err := json.Unmarshal(plain, content); err != nil {
		return old, errDamaged
	}
	return old, nil
}

// cipher returns the AEAD of this one object. It keeps the nonce in the sealed text.
func (e *envelope) cipher(key Key) cipher.AEAD {
	block, err := aes.NewCipher(key.derive(e.Salt, "upstream_oauth2 v1 object", keySize))
	if err != nil {
		panic(err) // of a wrong key size alone
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // of another cipher than AES alone
	}
	return aead
}

// place is what the object is authenticated with beside its content.
func (e *envelope) place(name Name, object string) []byte {
	return prefixed(strconv.Itoa(e.Version), e.KeyID, string(name), object)
}
