package tokencache

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestInheritedTokenServesUntilThereIsANewer: a reload that finds another secret in
// its file has a token requested with that, and goes on with the old token while
// none can be had.
func TestInheritedTokenServesUntilThereIsANewer(t *testing.T) {
	tests := []struct {
		name      string
		later     func(n int) answer // of the new settings' token requests
		inherited bool               // which token the requests get
	}{
		{"a newer one", always(answer{lifetime: stated(time.Hour)}), false},
		{"a server that is down", always(answer{err: errDown}), true},
		{"a server that gives no answer in time", always(answer{after: 10 * time.Second, err: errDown}), true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := open(t, twentyPercent, &accountServer{lifetime: time.Hour})
				old, _, err := before.Entry(nil).Token(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(30 * time.Minute)
				heir := &scriptedConfig{script: test.later}
				after := open(t, twentyPercent, heir)
				after.Inherit(before)

				for range 29 { // until a minute before the old token's end
					token, _, err := after.Entry(nil).Token(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if inherited := token == old; inherited != test.inherited {
						t.Fatalf("a request gets %q", token.AccessToken.Reveal())
					}
					time.Sleep(time.Minute)
				}
				if heir.count() == 0 {
					t.Error("no token is requested with the new settings")
				}
			})
		})
	}
}

// TestAccountsInheritTheirTokens, each its own.
func TestAccountsInheritTheirTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := openAccounts(t, 100, &accountServer{lifetime: time.Hour})
		for _, account := range []string{"alice", "bob"} {
			if _, _, err := old.Entry([]string{account}).Token(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		heir := openAccounts(t, 100, &scriptedConfig{script: always(answer{err: errDown})})
		heir.Inherit(old)
		for _, account := range []string{"alice", "bob"} {
			token, _, err := heir.Entry([]string{account}).Token(t.Context())
			if err != nil || token.AccessToken.Reveal() != "for "+account {
				t.Errorf("%s gets %v and %v", account, token, err)
			}
		}
		if _, _, err := heir.Entry([]string{"carol"}).Token(t.Context()); err == nil {
			t.Error("carol gets a token of somebody else")
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := heir.Accounts(); n != 0 {
			t.Errorf("%d accounts are held after their tokens expired", n)
		}
	})
}
