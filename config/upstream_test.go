package config

import "testing"

func TestPlacement(t *testing.T) {
	tests := []struct {
		name   string
		inject *Inject
		want   Placement
	}{
		{"the default", nil, Placement{Name: "Authorization", ByType: true}},
		{"a scheme in Authorization", &Inject{Scheme: "OAuth"}, Placement{Name: "Authorization", Scheme: "OAuth"}},
		{"Authorization by name", &Inject{Name: "authorization"}, Placement{Name: "Authorization", ByType: true}},
		{"another field", &Inject{Name: "X-Api-Token"}, Placement{Name: "X-Api-Token"}},
		{"another field in lower case", &Inject{Name: "x-api-token"}, Placement{Name: "X-Api-Token"}},
		{"another field with a scheme", &Inject{Name: "x-api-token", Scheme: "Token"}, Placement{Name: "X-Api-Token", Scheme: "Token"}},
		{"a query parameter", &Inject{In: injectQuery, Name: "access_token"}, Placement{Name: "access_token", Query: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			client := Client{Inject: test.inject}
			if got := client.Placement(); got != test.want {
				t.Errorf("the placement is %+v, want %+v", got, test.want)
			}
		})
	}
}
