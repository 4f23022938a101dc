package integration

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// admin sends a request to the admin endpoint, which must be answered with status. The
// body of the answer is returned as JSON.
func admin(t *testing.T, method, path, body string, status int) any {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+os.Getenv("ADMIN")+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := caddytest.Do(http.DefaultClient, r)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status != status {
		t.Fatalf("%s %s is answered with %d, want %d: %s", method, path, answer.Status, status, answer.Body)
	}
	for _, secret := range []string{"access-token", "partner-secret"} {
		if strings.Contains(answer.Body, secret) {
			t.Errorf("%s %s shows a secret: %s", method, path, answer.Body)
		}
	}
	var decoded any
	if answer.Body != "" {
		if err := json.Unmarshal([]byte(answer.Body), &decoded); err != nil {
			t.Errorf("%s %s is answered with %s", method, path, answer.Body)
		}
	}
	return decoded
}

const adminPartner = "/upstream_oauth2/clients/partner"

// adminState asks for a client's status until it has that state.
func adminState(t *testing.T, path, state string) map[string]any {
	t.Helper()
	var status map[string]any
	caddytest.Eventually(t, path+" was "+state, func() bool {
		status = admin(t, http.MethodGet, path, "", http.StatusOK).(map[string]any)
		return status["state"] == state
	})
	return status
}

func TestAdminShowsClients(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "http://{$SITE} {", strings.ReplaceAll(otherDirective, "oauth2 other", `oauth2 "a/b c"`), 1))

	status := adminState(t, adminPartner, "fresh")
	for _, field := range []string{"expires_at", "renew_at", "last_success"} {
		if _, err := time.Parse(time.RFC3339, status[field].(string)); err != nil {
			t.Errorf("%s: %v", field, err)
		}
	}
	if status["name"] != "partner" || status["grant"] != "client_credentials" || status["failures"] != 0.0 || status["accounts"] != 0.0 ||
		status["last_failure"] != nil || status["next_attempt"] != nil {
		t.Errorf("the status is %v", status)
	}
	list := admin(t, http.MethodGet, "/upstream_oauth2/clients", "", http.StatusOK).([]any)
	if len(list) != 2 || list[0].(map[string]any)["name"] != "a/b c" || list[1].(map[string]any)["name"] != "partner" {
		t.Errorf("the clients are %v", list)
	}
	adminState(t, "/upstream_oauth2/clients/a%2Fb%20c", "fresh")

	auth.Says(http.StatusUnauthorized, `{"error":"invalid_client"}`)
	failed := admin(t, http.MethodPost, adminPartner+"/renew", "", http.StatusBadGateway).(map[string]any)
	if text, _ := failed["error"].(string); !strings.Contains(text, "invalid_client") {
		t.Errorf("the error is %q", text)
	}
	status = adminState(t, adminPartner, "fresh") // the token in hand
	if last, _ := status["last_failure"].(map[string]any); status["failures"] != 1.0 || last["oauth_error"] != "invalid_client" || last["at"] == nil ||
		!strings.Contains(last["error"].(string), "invalid_client") {
		t.Errorf("after a failure the status is %v", status)
	}
	admin(t, http.MethodPost, adminPartner+"/forget", "", http.StatusNoContent)
	adminState(t, adminPartner, "failing")
}

func TestAdminRenewsAndForgets(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	adminState(t, adminPartner, "fresh")

	status := admin(t, http.MethodPost, adminPartner+"/renew", "{}", http.StatusOK).(map[string]any)
	if status["state"] != "fresh" || auth.Count() != 2 {
		t.Errorf("after %d token requests the status is %v", auth.Count(), status)
	}
	admin(t, http.MethodPost, adminPartner+"/forget", "", http.StatusNoContent)
	adminState(t, adminPartner, "absent")
	if auth.Count() != 2 {
		t.Error("a token was fetched that nobody asked for")
	}
	proxy.Want(http.StatusOK)
	api.WantAttempts(t, "access-token-3")

	t.Run("not past Retry-After", func(t *testing.T) {
		auth.Answers(func(w http.ResponseWriter, _ caddytest.TokenRequest) {
			w.Header().Set("Retry-After", "300")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		for range 2 {
			admin(t, http.MethodPost, adminPartner+"/renew", "", http.StatusBadGateway)
		}
		if auth.Count() != 4 {
			t.Errorf("%d token requests, want 4", auth.Count())
		}
	})
}

func TestAdminNamesAccounts(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("account {http.request.header.X-User}"))
	if status := adminState(t, adminPartner, "absent"); status["accounts"] != 0.0 {
		t.Errorf("before any request the status is %v", status)
	}
	proxy.WantAs("alice", http.StatusOK)
	proxy.WantAs("b ob", http.StatusOK)
	if status := adminState(t, adminPartner, "fresh"); status["accounts"] != 2.0 {
		t.Errorf("of the client the status is %v", status)
	}
	adminState(t, adminPartner+"?account="+url.QueryEscape("b ob"), "fresh")

	admin(t, http.MethodPost, adminPartner+"/renew", `{"account":"alice"}`, http.StatusOK)
	if auth.Count() != 3 {
		t.Errorf("%d token requests, want 3", auth.Count())
	}
	admin(t, http.MethodPost, adminPartner+"/forget", `{"account":"alice"}`, http.StatusNoContent)
	adminState(t, adminPartner+"?account=alice", "absent")
	adminState(t, adminPartner+"?account=b+ob", "fresh")
	admin(t, http.MethodPost, adminPartner+"/forget", "", http.StatusNoContent)
	adminState(t, adminPartner+"?account=b+ob", "absent")

	proxy.WantNoAlarm()
	admin(t, http.MethodGet, adminPartner+"?account=carol", "", http.StatusNotFound)
	admin(t, http.MethodPost, adminPartner+"/renew", `{"account":"carol"}`, http.StatusNotFound)
	admin(t, http.MethodPost, adminPartner+"/renew", "", http.StatusBadRequest)
}

func TestAdminRefuses(t *testing.T) {
	caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	caddytest.Run(t, caddytest.PartnerSite)
	tests := []struct {
		method, path, body string
		status             int
	}{
		{http.MethodPost, "/upstream_oauth2/clients", "", http.StatusMethodNotAllowed},
		{http.MethodPost, adminPartner, "", http.StatusMethodNotAllowed},
		{http.MethodDelete, adminPartner, "", http.StatusMethodNotAllowed},
		{http.MethodGet, adminPartner + "/renew", "", http.StatusMethodNotAllowed},
		{http.MethodGet, adminPartner + "/forget", "", http.StatusMethodNotAllowed},
		{http.MethodPost, "/upstream_oauth2/health", "", http.StatusMethodNotAllowed},
		{http.MethodGet, "/upstream_oauth2/clients/nobody", "", http.StatusNotFound},
		{http.MethodGet, "/upstream_oauth2/clients/", "", http.StatusNotFound},
		{http.MethodPost, "/upstream_oauth2/clients/nobody/renew", "", http.StatusNotFound},
		{http.MethodPost, adminPartner + "/renew", `{"accounts":1}`, http.StatusBadRequest},
		{http.MethodPost, adminPartner + "/renew", `account=alice`, http.StatusBadRequest},
		{http.MethodPost, adminPartner + "/forget", `{"account":"alice"}`, http.StatusBadRequest},
		{http.MethodGet, adminPartner + "?account=alice", "", http.StatusBadRequest},
	}
	for _, test := range tests {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			answer := admin(t, test.method, test.path, test.body, test.status).(map[string]any)
			if answer["error"] == "" {
				t.Error("there is no error text")
			}
		})
	}
}

// TestAdminSaysThatSignInIsNeeded and the metrics do.
func TestAdminSaysThatSignInIsNeeded(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Says(http.StatusBadRequest, `{"error":"invalid_grant"}`)
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("grant refresh_token {\nrefresh_token configured\n}"))
	adminState(t, adminPartner, "sign_in_needed")
	awaitSeries(t, proxy, `sign_in_needed{client="partner"}`, "1")
}

func TestHealth(t *testing.T) {
	const health = "/upstream_oauth2/health"
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proceed := make(chan struct{})
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		<-proceed
		caddytest.Issuing(time.Hour)(w, r)
	})
	caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "http://{$SITE} {", `http://{$OTHER_SITE} {
	upstream_oauth2 accounts {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      accounts-id
		client_secret  accounts-secret
		account        {http.request.header.X-User}
	}
	reverse_proxy {$API}
}
http://{$SITE} {`, 1))
	answer := admin(t, http.MethodGet, health, "", http.StatusServiceUnavailable).(map[string]any)
	if answer["ready"] != false {
		t.Errorf("without a token it says %v", answer)
	}
	close(proceed)
	adminState(t, adminPartner, "fresh")
	admin(t, http.MethodGet, health, "", http.StatusOK)
	admin(t, http.MethodHead, health, "", http.StatusOK)

	auth.Says(http.StatusUnauthorized, `{"error":"invalid_client"}`)
	admin(t, http.MethodPost, adminPartner+"/forget", "", http.StatusNoContent)
	answer = admin(t, http.MethodGet, health, "", http.StatusServiceUnavailable).(map[string]any)
	if names, _ := answer["not_ready"].([]any); len(names) != 1 || names[0] != "partner" {
		t.Errorf("of a client that fails it says %v", answer)
	}
}
