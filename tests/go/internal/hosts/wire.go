package hosts

import (
	"math/rand"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// queueLength is how many packets are on their way from one host to another at most; as in a
// router, one more is lost.
const queueLength = 4096

// Conditions are those of the way from one host to another.
type Conditions struct {
	// Cut loses every packet.
	Cut bool
	// Delay is how long a packet is on its way.
	Delay time.Duration
	// Loss is the part of the packets that get lost, from 0 to 1.
	Loss float64
}

type path struct {
	conditions atomic.Pointer[Conditions]
	random     *rand.Rand
	packets    chan packet
}

type packet struct {
	due     time.Time
	content []byte
}

// carry makes the wire, without faults.
func (n *Network) carry(seed int64) {
	for from := range n.Hosts {
		row := make([]*path, len(n.Hosts))
		for to := range n.Hosts {
			random := rand.New(rand.NewSource(seed + int64(from*len(n.Hosts)+to)))
			row[to] = &path{random: random, packets: make(chan packet, queueLength)}
			row[to].conditions.Store(&Conditions{})
		}
		n.paths = append(n.paths, row)
	}
	for i, host := range n.Hosts {
		n.wait.Go(func() { n.receive(host, n.paths[i]) })
		for from := range n.Hosts {
			n.wait.Go(func() { n.paths[from][i].deliver(host) })
		}
	}
}

// receive takes what a host sends, until its device is closed.
func (n *Network) receive(host *Host, paths []*path) {
	defer func() {
		for _, path := range paths {
			close(path.packets)
		}
	}()
	buffer := make([]byte, mtu)
	for {
		length, err := host.device.Read(buffer)
		if err != nil {
			return
		}
		if to := n.receiver(buffer[:length]); to >= 0 {
			paths[to].take(buffer[:length])
		}
	}
}

// receiver is the number of the host that a packet is for, or -1: the kernel also sends what is
// for nobody here, as soon as a device is up.
func (n *Network) receiver(content []byte) int {
	const headerLength, version4 = 20, 4
	if len(content) < headerLength || content[0]>>4 != version4 {
		return -1
	}
	address := net.IP(content[16:20]).String()
	return slices.IndexFunc(n.Hosts, func(host *Host) bool { return host.IP == address })
}

func (p *path) take(content []byte) {
	now := p.conditions.Load()
	if now.Cut || p.random.Float64() < now.Loss {
		return
	}
	select {
	case p.packets <- packet{time.Now().Add(now.Delay), slices.Clone(content)}:
	default:
	}
}

func (p *path) deliver(to *Host) {
	for packet := range p.packets {
		<-time.After(time.Until(packet.due))
		// The device may be closed already.
		_, _ = to.device.Write(packet.content)
	}
}

// Set gives the way from one host to another its conditions, for the packets sent from now on.
func (n *Network) Set(from, to int, conditions Conditions) {
	n.paths[from][to].conditions.Store(&conditions)
}

// SetAmong gives all ways between some hosts, in both directions, the same conditions.
func (n *Network) SetAmong(hosts []int, conditions Conditions) {
	for _, from := range hosts {
		for _, to := range hosts {
			n.Set(from, to, conditions)
		}
	}
}

func (n *Network) close() {
	for _, host := range n.Hosts {
		_ = host.device.Close()
	}
	n.wait.Wait()
	for _, host := range n.Hosts {
		host.close()
	}
}
