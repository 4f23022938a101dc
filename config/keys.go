package config

import (
	"crypto/tls"
	"fmt"
	"strings"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// signingKey reads a key and its certificate; nil if that fails.
func (l *lookup) signingKey(option string, key Credential, certificate string, o authserver.KeyOptions) *authserver.SigningKey {
	o.KeyID = l.text(option, o.KeyID)
	at := place{option: option, source: string(key), with: certificate, as: fmt.Sprint(o.Algorithm, " ", o.KeyID, " ", o.SendCertificate)}
	parsed, err := orRemembered(l.last, at, func() (*authserver.SigningKey, error) {
		o := o
		var err error
		if certificate != "" {
			if o.Certificate, err = l.content(Credential(certificate)); err != nil {
				return nil, err
			}
		}
		content, err := l.content(key)
		if err != nil {
			return nil, err
		}
		return authserver.ParseSigningKey(content, o)
	})
	l.note(option, err)
	return parsed
}

// keyPair is a client certificate with its key.
type keyPair struct {
	certificate []byte // PEM
	parsed      *tls.Certificate
}

// keyPair reads the client certificate and its key, of which both count or none.
func (l *lookup) keyPair(a ClientAuth) keyPair {
	at := place{option: "client_auth", source: a.Certificate, with: string(a.Key)}
	pair, err := orRemembered(l.last, at, func() (keyPair, error) {
		certificate, err := l.content(Credential(a.Certificate))
		if err != nil {
			return keyPair{}, err
		}
		key := certificate // one file may hold both
		if a.Key != "" {
			if key, err = l.content(a.Key); err != nil {
				return keyPair{}, err
			}
		}
		parsed, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return keyPair{}, fmt.Errorf("certificate and key do not make a pair: %w", err)
		}
		return keyPair{certificate, &parsed}, nil
	})
	l.note("client_auth", err)
	return pair
}

// assertionFile reads an assertion that somebody else renews.
func (l *lookup) assertionFile(file string) authserver.Secret {
	assertion, err := orRemembered(l.last, place{option: "client_auth", source: file, as: "assertion"}, func() (authserver.Secret, error) {
		content, err := l.content(Credential(file))
		if err != nil {
			return authserver.Secret{}, err
		}
		return authserver.NewSecret(strings.TrimSpace(string(content))), nil
	})
	l.note("client_auth", err)
	return assertion
}

// serviceAccount reads Google's key file; nil if that fails.
func (l *lookup) serviceAccount() *authserver.ServiceAccount {
	file := l.client.grant().ServiceAccount
	account, err := orRemembered(l.last, place{option: "grant", source: string(file), as: "service account"}, func() (*authserver.ServiceAccount, error) {
		content, err := l.content(file)
		if err != nil {
			return nil, err
		}
		account, err := authserver.ParseServiceAccount(content)
		if err != nil {
			return nil, fmt.Errorf("service_account: %w", err)
		}
		return account, nil
	})
	l.note("grant", err)
	return account
}
