package unruly

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The names that a row is written with: as.json(…) is a server, gets.token(…)
// what comes of it.
var (
	as   servers
	gets outcomes
)

// section is a group of rows that one Caddy serves.
type section struct {
	name string
	rows []row
}

// row is one line of the table.
type row struct {
	name   string
	server server
	want   outcome
}

func table() []section {
	return slices.Concat(httpTable(), answerTable(), connectionTable())
}

const second, hour, year = time.Second, time.Hour, 365 * 24 * time.Hour

// A server that does all right, and its whole answer.
var (
	good     = as.members(`"expires_in":3600`)
	goodHTTP = "HTTP/1.1 200 OK\r\n" + contentLength(goodBody) + "\r\n" + goodBody
)

// Pieces of answers.
var (
	goodBody      = `{"access_token":"` + accessToken + `","token_type":"Bearer","expires_in":3600}`
	formBody      = "access_token=" + accessToken + "&token_type=bearer&expires_in=3600"
	chunkedHeader = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	basicPair     = base64.StdEncoding.EncodeToString([]byte(clientID + ":" + clientSecret))
)

func contentLength(body string) string { return fmt.Sprintf("Content-Length: %d\r\n", len(body)) }

func chunked(chunks ...string) string {
	var b strings.Builder
	for _, chunk := range chunks {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(chunk), chunk)
	}
	return b.String()
}

func gzipped(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, body)
	_ = w.Close()
	return b.String()
}
