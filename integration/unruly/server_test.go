package unruly

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// server is what stands where the token endpoint should be.
type server struct {
	serve       func(*conn) // what it does with a connection; nil: it accepts none
	prepare     func(*net.TCPListener) error
	certificate string // for TLS; "" for none
	tls         []func(*tls.Config)
	resolve     func(*dnsmessage.Message) // the DNS server's part of an answer

	endpoint  string   // its URL
	config    []string // further lines of the client's block
	transport []string // lines of its transport
}

type servers struct{}

func (servers) does(serve func(*conn)) server {
	return server{serve: serve, endpoint: "http://127.0.0.1:PORT/token"}
}

// answers gives one answer to whatever is asked.
func answers(answer string) func(*conn) {
	return func(c *conn) {
		for c.request() {
			c.send(answer)
		}
	}
}

func (servers) says(answer string) server { return as.does(answers(answer)) }

func (servers) saysAndCloses(answer string) server {
	return as.does(func(c *conn) {
		if c.request() {
			c.send(answer)
		}
	})
}

func (servers) saysAndResets(answer string) server {
	return as.does(func(c *conn) {
		if c.request() {
			c.send(answer)
			c.reset()
		}
	})
}

func (servers) status(status int, body string) server {
	return as.says(fmt.Sprintf("HTTP/1.1 %03d Status\r\nContent-Type: application/json\r\n%s\r\n%s", status, contentLength(body), body))
}

func (servers) failing(status int, fields string) server {
	return as.says(fmt.Sprintf("HTTP/1.1 %d Status\r\n%s\r\nContent-Length: 0\r\n\r\n", status, fields))
}

func (servers) redirects(status int, location string) server {
	return as.failing(status, "Location: "+location)
}

func (servers) fields(fields, body string) server {
	return as.says("HTTP/1.1 200 OK\r\n" + fields + "\r\n" + contentLength(body) + "\r\n" + body)
}

func (servers) json(body string) server {
	return as.fields("Content-Type: application/json", body)
}

// members answers with a token and these further members.
func (servers) members(members string) server {
	return as.json(`{"access_token":"` + accessToken + `","token_type":"Bearer",` + members + `}`)
}

// endless begins an answer and does not come to its end.
func (servers) endless(begin, more string) server {
	return as.does(func(c *conn) {
		if c.request() {
			c.send(begin)
			for more := strings.Repeat(more, 32<<10/len(more)); c.send(more); {
			}
		}
	})
}

// stalls begins an answer and falls silent.
func (servers) stalls(begin string) server {
	return as.does(func(c *conn) {
		if c.request() {
			c.send(begin)
			c.hold()
		}
	})
}

// drips begins an answer and goes on a little at a time.
func (servers) drips(begin, more string) server {
	return as.does(func(c *conn) {
		drip := time.NewTicker(stall / 25)
		defer drip.Stop()
		if c.request() {
			c.send(begin)
			for c.send(more) {
				<-drip.C
			}
		}
	})
}

// absent listens nowhere: port 1 is for a service that nobody runs.
func (servers) absent() server {
	return as.does(nil).at("http://127.0.0.1:1/token")
}

func (servers) unaccepted(scheme string) server {
	return as.does(nil).at(scheme + "://127.0.0.1:PORT/token")
}

// fullBacklog has no room left for a connection, so that the kernel leaves
// the first packet of the next one unanswered.
func (servers) fullBacklog() server {
	s := as.unaccepted("http")
	s.prepare = func(l *net.TCPListener) error {
		raw, err := l.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { err = relisten(syscall.Listen, fd) }); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		_, err = net.Dial("tcp", l.Addr().String()) // takes the one place
		return err
	}
	return s
}

// relisten calls listen, whose first parameter differs from system to
// system, with no backlog.
func relisten[handle ~int | ~uintptr](listen func(handle, int) error, fd uintptr) error {
	return listen(handle(fd), 0)
}

// silentProxy stands in the way of the connection.
func (servers) silentProxy() server {
	s := as.does(func(c *conn) { c.hold() }).at("https://auth.invalid/token")
	s.transport = []string{"network_proxy url http://127.0.0.1:PORT"}
	return s
}

// belowTLS has an https URL and speaks something else.
func (servers) belowTLS(serve func(*conn)) server {
	return as.does(serve).at("https://127.0.0.1:PORT/token").trusting("CA")
}

func (servers) tls(certificate string, serve func(*conn)) server {
	s := as.belowTLS(serve)
	s.certificate = certificate
	return s
}

// h2 speaks HTTP/2; serve is what it does after the settings are sent, without
// which it stops where they would come.
func (servers) h2(serve func(*h2Conn)) server {
	return as.tls("good", func(c *conn) {
		if serve == nil || c.read(len(http2.ClientPreface)) != http2.ClientPreface {
			c.hold()
			return
		}
		h2 := &h2Conn{conn: c, Framer: http2.NewFramer(c, c.reader)}
		h2.encoder = hpack.NewEncoder(&h2.encoded)
		h2.check(h2.WriteSettings())
		serve(h2)
		c.hold()
	}).alpn("h2")
}

// dns has a name that only its own DNS server knows: resolve completes the
// answer that it gives; nil: it gives none.
func (servers) dns(resolve func(*dnsmessage.Message)) server {
	s := as.tls("good", answers("HTTP/1.1 200 OK\r\n"+contentLength(goodBody)+"\r\n"+goodBody)).at("https://auth.invalid:PORT/token")
	if s.resolve = resolve; resolve == nil {
		s.resolve = func(m *dnsmessage.Message) { m.Questions = nil }
	}
	s.transport = append(s.transport, "resolvers 127.0.0.1:DNSPORT", "network_proxy none")
	return s
}

func resolveToLoopback(m *dnsmessage.Message) {
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		})
	}
}

func (s server) at(endpoint string) server { s.endpoint = endpoint; return s }

func (s server) with(line string) server {
	s.config = append(slices.Clone(s.config), line)
	return s
}

func (s server) trusting(ca string) server {
	s.transport = nil
	if ca != "" {
		s.transport = []string{"tls_trust_pool file " + ca}
	}
	return s
}

func (s server) withTLS(change func(*tls.Config)) server {
	s.tls = append(slices.Clone(s.tls), change)
	return s
}

func (s server) alpn(protocol string) server {
	return s.withTLS(func(c *tls.Config) { c.NextProtos = []string{protocol} })
}

func (s server) tlsVersion(version uint16) server {
	return s.withTLS(func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
}

func (s server) demandingCertificate() server {
	return s.withTLS(func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
}

// endpoint is the server of one row at work.
type endpoint struct {
	server                 server
	address, port, dnsPort string
	other                  string // a host where nothing may arrive

	mu       sync.Mutex
	requests int
	first    time.Time
	open     map[net.Conn]bool
	closed   bool
}

func newEndpoint(t *testing.T, s server, other string) *endpoint {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{server: s, address: l.Addr().String(), other: other, open: make(map[net.Conn]bool)}
	_, e.port, _ = net.SplitHostPort(e.address)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		e.close()
		serving.Wait()
	})
	if s.prepare != nil {
		if err := s.prepare(l); err != nil {
			t.Fatal(err)
		}
	}
	if s.resolve != nil {
		dns, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dns.Close() })
		_, e.dnsPort, _ = net.SplitHostPort(dns.LocalAddr().String())
		go e.serveDNS(dns)
	}
	if s.serve == nil {
		return e
	}
	serving.Go(func() {
		for n := 1; ; n++ {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			if !e.keep(conn) {
				return
			}
			serving.Go(func() { e.serve(n, conn) })
		}
	})
	return e
}

func (e *endpoint) keep(conn net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		_ = conn.Close()
		return false
	}
	e.open[conn] = true
	return true
}

func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for conn := range e.open {
		_ = conn.Close()
	}
}

func (e *endpoint) serve(n int, tcp *net.TCPConn) {
	c := &conn{Conn: tcp, tcp: tcp, endpoint: e, number: n}
	if e.server.certificate != "" {
		config := &tls.Config{Certificates: []tls.Certificate{pki().leaves[e.server.certificate]}}
		for _, change := range e.server.tls {
			change(config)
		}
		c.Conn = tls.Server(tcp, config)
	}
	defer tcp.Close()
	defer c.Close()
	c.reader = bufio.NewReader(c.Conn)
	e.server.serve(c)
}

// arrived notes a token request.
func (e *endpoint) arrived() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.requests++; e.requests == 1 {
		e.first = time.Now()
	}
}

// count returns how many token requests have arrived, and how long ago the
// first one did.
func (e *endpoint) count() (int, time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.requests == 0 {
		return 0, 0
	}
	return e.requests, time.Since(e.first)
}

func (e *endpoint) serveDNS(conn net.PacketConn) {
	packet := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(packet)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(packet[:n]) != nil {
			continue
		}
		answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
		e.server.resolve(&answer)
		if answer.Questions == nil {
			continue
		}
		if packed, err := answer.Pack(); err == nil {
			_, _ = conn.WriteTo(packed, from)
		}
	}
}

// conn is a connection to a row's server.
type conn struct {
	net.Conn
	tcp      *net.TCPConn
	reader   *bufio.Reader
	endpoint *endpoint
	number   int // counts the server's connections from 1
}

// request reads a whole token request; false if there is none any more.
func (c *conn) request() bool {
	r, err := http.ReadRequest(c.reader)
	if err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return false
	}
	c.endpoint.arrived()
	return true
}

// send writes text, in which OTHER stands for the host where nothing may
// arrive; false if that is no longer possible.
func (c *conn) send(text string) bool {
	_, err := io.WriteString(c, strings.ReplaceAll(text, "OTHER", c.endpoint.other))
	return err == nil
}

// read returns the next n bytes.
func (c *conn) read(n int) string {
	b := make([]byte, n)
	n, _ = io.ReadFull(c.reader, b)
	return string(b[:n])
}

// hold does nothing until the client hangs up.
func (c *conn) hold() { _, _ = io.Copy(io.Discard, c.reader) }

func (c *conn) halfClose() { _ = c.tcp.CloseWrite() }

// reset closes the connection so that the client gets an error, not an end.
func (c *conn) reset() {
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close()
}

// h2Conn is a connection on which HTTP/2 is spoken, frame by frame.
type h2Conn struct {
	*conn
	*http2.Framer
	encoder *hpack.Encoder
	encoded bytes.Buffer
}

// check drops the connection once it cannot be written to.
func (c *h2Conn) check(err error) {
	if err != nil {
		_ = c.tcp.Close()
	}
}

// next returns the stream of the next whole token request; 0 if there is none
// any more.
func (c *h2Conn) next() uint32 {
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return 0
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.check(c.WriteSettingsAck())
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				c.endpoint.arrived()
				return f.StreamID
			}
		}
	}
}

func (c *h2Conn) block(fields ...string) []byte {
	c.encoded.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: strings.ReplaceAll(fields[i+1], "OTHER", c.endpoint.other)})
	}
	return slices.Clone(c.encoded.Bytes())
}

func (c *h2Conn) header(stream uint32, end bool, fields ...string) {
	c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block(fields...), EndStream: end, EndHeaders: true}))
}

func (c *h2Conn) data(stream uint32, end bool, data string) {
	c.check(c.WriteData(stream, end, []byte(data)))
}

func (c *h2Conn) answer(stream uint32, status, body string) {
	c.header(stream, false, ":status", status)
	c.data(stream, true, body)
}

func (c *h2Conn) answerAll() {
	for stream := c.next(); stream != 0; stream = c.next() {
		c.answer(stream, "200", goodBody)
	}
}

// pki is a certificate authority with a certificate for each way in
// which one can be wrong.
var pki = sync.OnceValue(func() (pki struct {
	ca     []byte // PEM
	leaves map[string]tls.Certificate
}) {
	now := time.Now()
	serial := int64(0)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // one for all
	if err != nil {
		panic(err)
	}
	issue := func(parent *x509.Certificate, change func(*x509.Certificate)) *x509.Certificate {
		serial++
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial),
			Subject:      pkix.Name{CommonName: fmt.Sprintf("unruly %d", serial)},
			NotBefore:    now.Add(-time.Hour),
			NotAfter:     now.Add(time.Hour),
			KeyUsage:     x509.KeyUsageDigitalSignature,
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames:     []string{"localhost", "auth.invalid"},
			IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		change(template)
		if parent == nil {
			parent = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, key)
		if err != nil {
			panic(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		return certificate
	}
	authority := func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.DNSNames, c.IPAddresses, c.ExtKeyUsage = nil, nil, nil
	}
	unchanged := func(*x509.Certificate) {}
	root, stranger := issue(nil, authority), issue(nil, authority)
	intermediate := issue(root, authority)

	pki.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	pki.leaves = make(map[string]tls.Certificate)
	for name, chain := range map[string][]*x509.Certificate{
		"good":        {issue(root, unchanged)},
		"chained":     {issue(intermediate, unchanged), intermediate},
		"unchained":   {issue(intermediate, unchanged)},
		"stranger":    {issue(stranger, unchanged), stranger},
		"self-signed": {issue(nil, unchanged)},
		"expired":     {issue(root, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })},
		"early":       {issue(root, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) })},
		"elsewhere":   {issue(root, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"elsewhere.invalid"}, nil })},
		"named":       {issue(root, func(c *x509.Certificate) { c.IPAddresses = nil })},
		"common name": {issue(root, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames, c.IPAddresses = "127.0.0.1", nil, nil })},
		"client":      {issue(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })},
	} {
		leaf := tls.Certificate{PrivateKey: key}
		for _, certificate := range chain {
			leaf.Certificate = append(leaf.Certificate, certificate.Raw)
		}
		pki.leaves[name] = leaf
	}
	return pki
})
