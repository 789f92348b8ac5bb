// Package names is a small DNS server for tests, and for nothing else.
package names

import (
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Service is one SRV record: where a service is found.
type Service struct {
	Name   string
	Target string
	Port   uint16
}

// Zone is all that the server knows; names have no dot at the end.
type Zone struct {
	Services  []Service
	Addresses map[string]string
}

const (
	// messageSize is more than any question or answer of the tests takes.
	messageSize = 4096
	ttlSeconds  = 60
)

// Serve answers questions until the connection is closed.
func (z Zone) Serve(connection net.PacketConn) {
	buffer := make([]byte, messageSize)
	for {
		length, from, err := connection.ReadFrom(buffer)
		if err != nil {
			return
		}
		var question dnsmessage.Message
		if question.Unpack(buffer[:length]) != nil || len(question.Questions) != 1 {
			continue
		}
		if packed, err := z.answer(question).Pack(); err == nil {
			// Whoever asks asks again.
			_, _ = connection.WriteTo(packed, from)
		}
	}
}

func (z Zone) answer(question dnsmessage.Message) *dnsmessage.Message {
	asked := question.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(asked.Name.String(), "."))
	answer := &dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: question.ID, Response: true, Authoritative: true,
			RecursionDesired: question.RecursionDesired, RecursionAvailable: true,
		},
		Questions: question.Questions,
	}
	add := func(body dnsmessage.ResourceBody) {
		answer.Answers = append(answer.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{
				Name: asked.Name, Class: dnsmessage.ClassINET, TTL: ttlSeconds,
			},
			Body: body,
		})
	}
	known := false
	for _, service := range z.Services {
		if service.Name != name {
			continue
		}
		known = true
		if asked.Type == dnsmessage.TypeSRV {
			target := dnsmessage.MustNewName(service.Target + ".")
			add(&dnsmessage.SRVResource{Priority: 1, Weight: 1, Port: service.Port, Target: target})
		}
	}
	if address, ok := z.Addresses[name]; ok {
		known = true
		if asked.Type == dnsmessage.TypeA {
			add(&dnsmessage.AResource{A: netip.MustParseAddr(address).As4()})
		}
	}
	if !known {
		answer.RCode = dnsmessage.RCodeNameError
	}
	return answer
}
