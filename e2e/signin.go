package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"

	"golang.org/x/oauth2"
)

// signIn signs alice in at the server's own pages, without a browser, and returns the refresh token
// that the client got for her.
func (s *authServer) signIn(c client, scopes ...string) string {
	s.t.Helper()
	config := oauth2.Config{
		ClientID:     c.ID,
		ClientSecret: c.Secret,
		RedirectURL:  redirectURI,
		Scopes:       append([]string{"openid", "offline_access"}, scopes...),
		Endpoint: oauth2.Endpoint{
			AuthURL:   s.metadata.AuthorizationEndpoint,
			TokenURL:  s.metadata.TokenEndpoint,
			AuthStyle: oauth2.AuthStyleInHeader,
		},
	}
	verifier := oauth2.GenerateVerifier()
	code, err := visit(config.AuthCodeURL(rand.Text(),
		oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("prompt", "consent")))
	if err != nil {
		s.t.Fatalf("signing in at %s: %v", s.kind.name, err)
	}
	options := []oauth2.AuthCodeOption{oauth2.VerifierOption(verifier)}
	if c.AuthMethod == "private_key_jwt" {
		config.ClientSecret, config.Endpoint.AuthStyle = "", oauth2.AuthStyleInParams
		options = append(options, oauth2.SetAuthURLParam("client_assertion", s.newAssertion(c, c.keys[0])),
			oauth2.SetAuthURLParam("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"))
	}
	token, err := config.Exchange(context.Background(), code, options...)
	if err != nil {
		s.t.Fatalf("exchanging the code at %s: %v", s.kind.name, err)
	}
	if token.RefreshToken == "" {
		s.t.Fatalf("%s gave no refresh token", s.kind.name)
	}
	return token.RefreshToken
}

var (
	formAction = regexp.MustCompile(`<form[^>]*\saction="([^"]*)"`)
	formInput  = regexp.MustCompile(`<input[^>]*\sname="([^"]*)"[^>]*>`)
	inputValue = regexp.MustCompile(`\svalue="([^"]*)"`)
)

// visit goes from page to page, filling in every form with alice, until it is sent back to the client
// with a code.
func visit(page string) (code string, err error) {
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{
		Jar: jar,
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if strings.HasPrefix(r.URL.String(), redirectURI) {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	answer, err := browser.Get(page)
	for range 10 {
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			return "", err
		}
		if home, err := answer.Location(); err == nil {
			if code := home.Query().Get("code"); code != "" {
				return code, nil
			}
			return "", fmt.Errorf("sent back without a code: %s", home.RawQuery)
		}
		action := formAction.FindSubmatch(body)
		if answer.StatusCode != http.StatusOK || action == nil {
			return "", fmt.Errorf("%s: %s: no form in it: %s", answer.Request.URL, answer.Status, body)
		}
		next, err := answer.Request.URL.Parse(html.UnescapeString(string(action[1])))
		if err != nil {
			return "", err
		}
		answer, err = browser.PostForm(next.String(), fillIn(body))
		if err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("one form after another, no code")
}

func fillIn(page []byte) url.Values {
	form := make(url.Values)
	for _, input := range formInput.FindAllSubmatch(page, -1) {
		value := "alice" // her name, her password
		if given := inputValue.FindSubmatch(input[0]); given != nil {
			value = html.UnescapeString(string(given[1]))
		}
		form.Set(string(input[1]), value)
	}
	return form
}
