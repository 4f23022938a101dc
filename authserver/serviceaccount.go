package authserver

import (
	"bytes"
	"errors"
	"fmt"
)

// googleTokenEndpoint is where a key file without token_uri is used.
const googleTokenEndpoint = "https://oauth2.googleapis.com/token"

// ServiceAccount is a Google service account's key, as its JSON key file has
// it. Its tokens come by the jwt-bearer grant: ClientEmail is the issuer of
// the assertion, and TokenURI its audience and the token endpoint.
type ServiceAccount struct {
	ClientEmail  string
	PrivateKeyID string
	TokenURI     string
	Key          *SigningKey
}

// ParseServiceAccount reads a JSON key file. No error holds any part of it.
func ParseServiceAccount(data []byte) (*ServiceAccount, error) {
	data = bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(data), byteOrderMark))
	if len(data) == 0 || data[0] != '{' {
		return nil, errors.New("the service account's key file is not a JSON object: download it again, as JSON")
	}
	file, err := readJSON(data)
	if err != nil {
		return nil, errors.New("the service account's key file is damaged: download it again, as JSON")
	}
	texts := make(map[string]string)
	for _, name := range []string{"type", "client_email", "private_key_id", "private_key", "token_uri"} {
		s, ok := file.text(name)
		if !ok {
			return nil, fmt.Errorf("the service account's key file is damaged: %s is not a string", name)
		}
		texts[name] = s
	}
	return newServiceAccount(texts)
}

func newServiceAccount(file map[string]string) (*ServiceAccount, error) {
	if file["type"] != "service_account" {
		return nil, errors.New("the file is not the key of a service account: its type is not service_account")
	}
	for _, name := range []string{"client_email", "private_key"} {
		if file[name] == "" {
			return nil, fmt.Errorf("the service account's key file has no %s", name)
		}
	}
	if file["token_uri"] == "" {
		file["token_uri"] = googleTokenEndpoint
	}
	if err := CheckEndpoint(file["token_uri"], false); err != nil {
		return nil, fmt.Errorf("the service account's key file: token_uri %w", err)
	}
	key, err := ParseSigningKey([]byte(file["private_key"]), KeyOptions{Algorithm: "RS256", KeyID: file["private_key_id"]})
	if err != nil {
		return nil, fmt.Errorf("the service account's key file: private_key: %w", err)
	}
	return &ServiceAccount{
		ClientEmail:  file["client_email"],
		PrivateKeyID: file["private_key_id"],
		TokenURI:     file["token_uri"],
		Key:          key,
	}, nil
}
