package stock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"trilith.dev/tests/internal/cluster"
)

const (
	// pingsMax is enough for any server that means to turn a client away.
	pingsMax = 20
	// pingTimeout bounds one exchange of frames.
	pingTimeout = 20 * time.Second
)

// TestTooManyPingsAreTurnedAwayTheSame pings etcd and Trilith frame by frame, which no gRPC client
// can be made to do, and compares after how many pings, and with which words, they part.
func TestTooManyPingsAreTurnedAwayTheSame(t *testing.T) {
	for _, minTime := range []string{"1ns", "1h", "0s"} {
		options := cluster.Options{Args: []string{"--grpc-keepalive-min-time=" + minTime}}
		reference := cluster.Start(t, cluster.Reference(t), options)
		subject := cluster.Start(t, cluster.Subject(t), options)
		for _, withCall := range []bool{false, true} {
			t.Run(fmt.Sprintf("min time %s, with call %v", minTime, withCall), func(t *testing.T) {
				want := pingAway(t, reference.Client, withCall)
				got := pingAway(t, subject.Client, withCall)
				if want != got {
					t.Errorf("%s: %s\n%s: %s", reference.Program.Name, want, subject.Program.Name, got)
				}
				if spared := want == "no goodbye"; spared != (withCall && minTime == "1ns") {
					t.Errorf("etcd: %s", want)
				}
			})
		}
	}
}

// pingAway sends pings, each when the last one is answered, and tells what came of it.
func pingAway(t *testing.T, address string, withCall bool) string {
	t.Helper()
	connection, err := net.DialTimeout("tcp", address, pingTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(pingTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(connection, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(connection, connection)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if withCall {
		openCall(t, framer, address)
	}
	for ping := range pingsMax {
		if err := framer.WritePing(false, [8]byte{byte(ping)}); err != nil {
			t.Fatal(err)
		}
		goodbye, err := awaitPong(framer, byte(ping))
		if err != nil {
			t.Fatalf("after ping %d: %v", ping, err)
		}
		if goodbye != "" {
			return fmt.Sprintf("ping %d: %s", ping, goodbye)
		}
	}
	return "no goodbye"
}

// openCall begins a Range and does not say of what, so nothing is answered.
func openCall(t *testing.T, framer *http2.Framer, address string) {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", "/etcdserverpb.KV/Range"},
		{":authority", address},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	err := framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitPong reads until a ping is answered, and then what the server says in parting, if it does.
func awaitPong(framer *http2.Framer, ping byte) (string, error) {
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return "", err
		}
		switch frame := frame.(type) {
		case *http2.PingFrame:
			if frame.IsAck() && frame.Data[0] == ping {
				return "", nil
			}
		case *http2.GoAwayFrame:
			words := fmt.Sprintf("%v %q, last stream %d", frame.ErrCode, frame.DebugData(),
				frame.LastStreamID)
			return words, awaitEnd(framer)
		}
	}
}

func awaitEnd(framer *http2.Framer) error {
	for {
		if _, err := framer.ReadFrame(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
