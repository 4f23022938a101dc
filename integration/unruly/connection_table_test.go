package unruly

import (
	"crypto/tls"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/http2"
)

// connectionTable is about what is below the requests: TLS, the frames of HTTP/2, and DNS.
func connectionTable() []section {
	return []section{
		{"TLS", []row{
			{"good", as.tls("good", answers(goodHTTP)), gets.token(hour)},
			{"good, by the name localhost", as.tls("good", answers(goodHTTP)).at("https://localhost:PORT/token"), gets.token(hour)},
			{"good, with an intermediate", as.tls("chained", answers(goodHTTP)), gets.token(hour)},
			{"good, with TLS 1.2", as.tls("good", answers(goodHTTP)).tlsVersion(tls.VersionTLS12), gets.token(hour)},
			{"HTTP/1.1 agreed on", as.tls("good", answers(goodHTTP)).alpn("http/1.1"), gets.token(hour)},
			{"expired", as.tls("expired", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"not yet valid", as.tls("early", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"wrong host", as.tls("elsewhere", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"wrong host, right by another name", as.tls("named", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"host in the common name alone", as.tls("common name", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"unknown CA", as.tls("stranger", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"unknown CA to the system", as.tls("good", answers(goodHTTP)).trusting(""), gets.unavailable("").after(0)},
			{"self-signed", as.tls("self-signed", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"intermediate left out", as.tls("unchained", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"certificate for clients", as.tls("client", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"TLS 1.1", as.tls("good", answers(goodHTTP)).tlsVersion(tls.VersionTLS11), gets.unavailable("").after(0)},
			{"client certificate demanded", as.tls("good", answers(goodHTTP)).demandingCertificate(), gets.unavailable("").after(0)},
			{"plain HTTP on the TLS port", as.belowTLS(func(c *conn) { c.send("HTTP/1.1 400 Bad Request\r\n\r\n"); c.hold() }), gets.unavailable("").after(0)},
			{"TLS on the plain port", as.tls("good", answers(goodHTTP)).at("http://127.0.0.1:PORT/token"), gets.unavailable("").after(0)},
			{"nonsense for ServerHello", as.belowTLS(func(c *conn) { c.send(strings.Repeat("\x16\x03\x03\x00\x04\x02\x00\x00\x00", 9)); c.hold() }), gets.unavailable("").after(0)},
			{"alert", as.belowTLS(func(c *conn) { c.send("\x15\x03\x03\x00\x02\x02\x28"); c.hold() }), gets.unavailable("").after(0)},
			{"closed in the handshake", as.belowTLS(func(c *conn) { c.read(1) }), gets.unavailable("").after(0)},
			{"reset in the handshake", as.belowTLS(func(c *conn) { c.read(1); c.reset() }), gets.unavailable("").after(0)},
			{"reset in the body", as.tls("good", func(c *conn) { c.request(); c.send(goodHTTP[:len(goodHTTP)-1]); c.reset() }), gets.unavailable("")},
			{"cut without a goodbye", as.tls("good", func(c *conn) {
				c.request()
				c.send("HTTP/1.1 200 OK\r\n\r\n" + goodBody[:30])
				_ = c.tcp.Close()
			}), gets.unusable()},
			{"HTTP/1.1 where HTTP/2 was agreed on", as.tls("good", func(c *conn) { c.send(goodHTTP); c.hold() }).alpn("h2"), gets.unavailable("").after(0)},
		}},

		{"HTTP2", []row{
			{"good", as.h2(func(c *h2Conn) { c.answerAll() }), gets.token(hour)},
			{"401 with a code", as.h2(func(c *h2Conn) { c.answer(c.next(), "401", `{"error":"invalid_client"}`) }), gets.refused("invalid_client")},
			{"503", as.h2(func(c *h2Conn) { c.answer(c.next(), "503", "") }), gets.unavailable("")},
			{"redirect to another host", as.h2(func(c *h2Conn) { c.header(c.next(), true, ":status", "307", "location", "http://OTHER/") }), gets.unusable()},
			{"gzip", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200", "content-encoding", "gzip")
				c.data(stream, true, gzipped(goodBody))
			}), gets.token(hour)},
			{"header in three frames", as.h2(func(c *h2Conn) {
				stream, block := c.next(), c.block(":status", "200", "x-node", "7")
				c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block[:1]}))
				c.check(c.WriteContinuation(stream, false, block[1:2]))
				c.check(c.WriteContinuation(stream, true, block[2:]))
				c.data(stream, true, goodBody)
			}), gets.token(hour)},
			{"data byte by byte", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				for _, b := range []byte(goodBody) {
					c.data(stream, false, string(b))
				}
				c.data(stream, true, "")
			}), gets.token(hour)},
			{"padded data", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.check(c.WriteDataPadded(stream, true, []byte(goodBody), make([]byte, 255)))
			}), gets.token(hour)},
			{"1,000 empty data frames", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				for range 1000 {
					c.data(stream, false, "")
				}
				c.data(stream, true, goodBody)
			}), gets.token(hour)},
			{"early hints", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "103", "link", "</s>; rel=preload")
				c.answer(stream, "200", goodBody)
			}), gets.token(hour)},
			{"trailer", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.data(stream, false, goodBody)
				c.header(stream, true, "x-node", "7")
			}), gets.token(hour)},
			{"unknown frames", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.check(c.WriteRawFrame(0xfa, 0xff, 0, []byte("?")))
				c.check(c.WriteRawFrame(0xfa, 0xff, stream, []byte("?")))
				c.answer(stream, "200", goodBody)
			}), gets.token(hour)},
			{"500 pings", as.h2(func(c *h2Conn) {
				stream := c.next()
				for range 500 {
					c.check(c.WritePing(false, [8]byte{}))
				}
				c.answer(stream, "200", goodBody)
			}), gets.token(hour)},
			{"settings changed in between", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.check(c.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0}))
				c.answer(stream, "200", goodBody)
			}), gets.token(hour)},

			// A GOAWAY says which streams were not seen: only those, and refused
			// ones, are safe to send again. net/http does so by itself; once is
			// enough.
			{"GOAWAY that saw nothing", as.h2(func(c *h2Conn) {
				if c.number > 1 {
					c.answerAll()
					return
				}
				c.next()
				c.check(c.WriteGoAway(0, http2.ErrCodeNo, nil))
			}), gets.token(hour).after(2)},
			{"GOAWAY that saw nothing, each time", as.h2(func(c *h2Conn) {
				c.next()
				c.check(c.WriteGoAway(0, http2.ErrCodeNo, nil))
			}), gets.unavailable("").after(2)},
			{"GOAWAY that saw the request, and an answer", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.check(c.WriteGoAway(stream, http2.ErrCodeNo, nil))
				c.answer(stream, "200", goodBody)
			}), gets.token(hour)},
			{"GOAWAY that saw the request, and the end", as.h2(func(c *h2Conn) {
				c.check(c.WriteGoAway(c.next(), http2.ErrCodeNo, nil))
				c.Close()
			}), gets.unavailable("")},
			{"GOAWAY with ENHANCE_YOUR_CALM", as.h2(func(c *h2Conn) {
				c.next()
				c.check(c.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")))
			}), gets.unavailable("")},
			{"GOAWAY that repeats the secret", as.h2(func(c *h2Conn) {
				c.check(c.WriteGoAway(c.next(), http2.ErrCodeInternal, []byte(clientSecret)))
				c.Close()
			}), gets.unavailable("")},
			{"REFUSED_STREAM, then an answer", as.h2(func(c *h2Conn) {
				if c.number == 1 {
					c.check(c.WriteRSTStream(c.next(), http2.ErrCodeRefusedStream))
				}
				c.answerAll()
			}), gets.token(hour).after(2)},
			{"REFUSED_STREAM each time", as.h2(func(c *h2Conn) {
				for stream := c.next(); stream != 0; stream = c.next() {
					c.check(c.WriteRSTStream(stream, http2.ErrCodeRefusedStream))
				}
			}), gets.unavailable("").after(2)},
			{"RST_STREAM with INTERNAL_ERROR", as.h2(func(c *h2Conn) { c.check(c.WriteRSTStream(c.next(), http2.ErrCodeInternal)) }), gets.unavailable("")},
			{"RST_STREAM with PROTOCOL_ERROR", as.h2(func(c *h2Conn) { c.check(c.WriteRSTStream(c.next(), http2.ErrCodeProtocol)) }), gets.unavailable("")},
			{"RST_STREAM with CANCEL", as.h2(func(c *h2Conn) { c.check(c.WriteRSTStream(c.next(), http2.ErrCodeCancel)) }), gets.unavailable("")},
			{"RST_STREAM with HTTP_1_1_REQUIRED", as.h2(func(c *h2Conn) { c.check(c.WriteRSTStream(c.next(), http2.ErrCodeHTTP11Required)) }), gets.unavailable("")},
			{"RST_STREAM after the header", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.check(c.WriteRSTStream(stream, http2.ErrCodeInternal))
			}), gets.unavailable("")},
			{"RST_STREAM in the data", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.data(stream, false, goodBody)
				c.check(c.WriteRSTStream(stream, http2.ErrCodeInternal))
			}), gets.unavailable("")},
			{"closed after the request", as.h2(func(c *h2Conn) { c.next(); c.Close() }), gets.unavailable("")},
			{"reset after the request", as.h2(func(c *h2Conn) { c.next(); c.reset() }), gets.unavailable("")},
			{"closed in the data", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.data(stream, false, goodBody)
				c.Close()
			}), gets.unavailable("")},
			{"data before the header", as.h2(func(c *h2Conn) { c.data(c.next(), true, goodBody) }), gets.unavailable("")},
			{"header without a status", as.h2(func(c *h2Conn) { c.header(c.next(), true, "x-node", "7") }), gets.unavailable("")},
			{"header with a status that is none", as.h2(func(c *h2Conn) { c.header(c.next(), true, ":status", "fine") }), gets.unavailable("")},
			{"header that is no HPACK", as.h2(func(c *h2Conn) {
				c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: []byte("\xff\xff\xff\xff\xff\xff\xff\xff"), EndHeaders: true}))
			}), gets.unavailable("")},
			{"content-length too large", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200", "content-length", "4096")
				c.data(stream, true, goodBody)
			}), gets.unavailable("")},
			{"content-length too small", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200", "content-length", "5")
				c.data(stream, true, goodBody)
			}), gets.unavailable("")},
			{"push", as.h2(func(c *h2Conn) {
				c.check(c.WritePushPromise(http2.PushPromiseParam{StreamID: c.next(), PromiseID: 2, BlockFragment: c.block(":method", "GET"), EndHeaders: true}))
			}), gets.unavailable("")},
			{"window beyond its bounds", as.h2(func(c *h2Conn) {
				c.next()
				c.check(c.WriteWindowUpdate(0, 1<<31-1))
				c.check(c.WriteWindowUpdate(0, 1<<31-1))
			}), gets.unavailable("")},
			{"frame beyond its bounds", as.h2(func(c *h2Conn) { c.next(); c.send("\xff\xff\xff\x00\x00\x00\x00\x00\x01") }), gets.unavailable("")},
			{"settings that are none", as.h2(func(c *h2Conn) {
				c.next()
				c.check(c.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}))
			}), gets.unavailable("")},
			{"2 MiB of data", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				for range 128 {
					c.data(stream, false, strings.Repeat(" ", 16<<10))
				}
			}), gets.unusable()},
		}},

		{"HTTP2 stalls", []row{
			{"without settings", as.h2(nil), gets.unavailable("").after(0).in(stall)},
			{"before the answer", as.h2(func(c *h2Conn) { c.next() }), gets.unavailable("").in(stall)},
			{"before the data", as.h2(func(c *h2Conn) { c.header(c.next(), false, ":status", "200") }), gets.unavailable("").in(stall)},
			{"in the data", as.h2(func(c *h2Conn) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.data(stream, false, goodBody)
			}), gets.unavailable("").in(stall)},
			{"in the header", as.h2(func(c *h2Conn) {
				c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: c.block(":status", "200")}))
			}), gets.unavailable("").in(stall)},
			{"with a header for another stream", as.h2(func(c *h2Conn) { c.header(c.next()+1000, true, ":status", "200") }), gets.unavailable("").in(stall)},
		}},

		{"DNS", []row{
			{"good", as.dns(resolveToLoopback), gets.token(hour)},
			{"no such name", as.dns(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }), gets.unavailable("").after(0)},
			{"server failure", as.dns(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure }), gets.unavailable("").after(0)},
			{"refused", as.dns(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeRefused }), gets.unavailable("").after(0)},
			{"no address", as.dns(func(*dnsmessage.Message) {}), gets.unavailable("").after(0)},
			{"cut short", as.dns(func(m *dnsmessage.Message) { m.Truncated = true }), gets.unavailable("").after(0)},
			{"an answer to something else", as.dns(func(m *dnsmessage.Message) { resolveToLoopback(m); m.ID++ }), gets.unavailable("").after(0).in(stall)},
			{"nobody answers", as.dns(nil), gets.unavailable("").after(0).in(stall)},
			{"a name under .invalid, by the system's resolver", as.absent().at("https://auth.invalid/token"), gets.unavailable("").after(0).in(stall)},
		}},
	}
}
