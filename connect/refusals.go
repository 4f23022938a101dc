package connect

import (
	"net/http"

	"go.uber.org/zap"
)

// refusal is the answer to a request that the page does not serve.
type refusal struct {
	status  int
	Title   string
	Text    string
	Example string // of what to write in the Caddyfile

	BasePath string // of the page, for a way back; empty where that helps nobody
}

var (
	nobody = refusal{
		status: http.StatusForbidden, Title: "Who are you?",
		Text: "Connections belong to people, and this request does not say whose it is. " +
			"Put authentication in front of this page, such as basic_auth or forward_auth; " +
			"the option user says where the page finds out who is looking.",
		Example: "basic_auth {\n\tanna <what 'caddy hash-password' prints>\n}\nupstream_oauth2_connect {\n\tbase_url https://gateway.example.com/connect\n\tuser     {http.auth.user.id}\n}",
	}
	notFound = refusal{
		status: http.StatusNotFound, Title: "There is nothing here",
		Text: "No such client is on this page, or it was renamed.",
	}
	badMethod = refusal{
		status: http.StatusMethodNotAllowed, Title: "That is not how it works",
		Text: "This page is for GET and POST.",
	}
	foreignForm = refusal{
		status: http.StatusForbidden, Title: "Nothing was changed",
		Text: "This did not come from a form of this page that is still good: it was loaded long ago, or by somebody else. Load the page anew and try again.",
	}
	foreignCallback = refusal{
		status: http.StatusBadRequest, Title: "Unknown sign-in",
		Text: "It has ended already, took more than ten minutes, or did not begin in this browser. Nothing was changed. Begin anew.",
	}
	otherUser = refusal{
		status: http.StatusForbidden, Title: "Somebody else began this sign-in",
		Text: "You are not who you were when it began. Nothing was changed. Begin anew.",
	}
)

// noAccount is for a request that does not say whose connection it is about.
func noAccount(client string) refusal {
	return refusal{
		status: http.StatusForbidden, Title: "Whose connection?",
		Text: "Everybody has a connection of their own with " + client + ", and this request does not say whose it is about.",
	}
}

// unsealed is for a time without a key, when no form can be made and none believed.
func (v *visit) unsealed(err error) refusal {
	v.logger.Error("the connect page is without an encryption key", zap.Error(err))
	return refusal{
		status: http.StatusServiceUnavailable, Title: "Not at the moment",
		Text: "What this page needs cannot be encrypted: " + plainly(err),
	}
}

// refuse answers with a refusal, which has changed nothing.
func (v *visit) refuse(re refusal) error {
	if v.wantsJSON() {
		return v.showJSON(re.status, map[string]string{"error": re.Text})
	}
	if re.status != http.StatusForbidden || re.Example == "" {
		re.BasePath = v.base.path + "/"
	}
	return v.show(re.status, refusalPage, re.Title, re)
}
