package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// ErrPlaintext is wrapped by every refusal to talk without TLS over a network. Whoever can read
// or change the traffic could commit and roll back transactions at will.
var ErrPlaintext = errors.New("transport: plaintext is allowed on loopback only")

// Server is how a server on addr (as given to net.Listen, or unix:PATH) secures its connections.
// Without TLS files it is plaintext, on a loopback address or with allow set; otherwise the error
// wraps [ErrPlaintext].
func Server(t TLS, addr string, allow bool) (credentials.TransportCredentials, error) {
	return choose(t, addr, allow, true)
}

// Client is how a client secures its connection to target, a gRPC target or host:port. The rule
// is that of [Server].
func Client(t TLS, target string, allow bool) (credentials.TransportCredentials, error) {
	return choose(t, target, allow, false)
}

func choose(t TLS, addr string, allow, server bool) (credentials.TransportCredentials, error) {
	if t.IsZero() {
		if err := CheckPlaintext(addr, allow); err != nil {
			return nil, err
		}
		return insecure.NewCredentials(), nil
	}
	s, err := newStore(t, server)
	if err != nil {
		return nil, err
	}
	return &reloading{s}, nil
}

// CheckPlaintext is the rule alone, for servers that do not speak gRPC.
func CheckPlaintext(addr string, allow bool) error {
	if allow || Loopback(addr) {
		return nil
	}
	return fmt.Errorf("%w: %s can be reached from other machines; give certificate files, "+
		"or say explicitly that it is meant to be insecure", ErrPlaintext, addr)
}

// Loopback says whether addr stays on this machine: a loopback IP, the name localhost, or a unix
// socket. An address without a host listens everywhere and is not.
func Loopback(addr string) bool {
	scheme, rest, ok := strings.Cut(addr, ":")
	switch {
	case ok && (scheme == "unix" || scheme == "unix-abstract"):
		return true
	case ok && (scheme == "dns" || scheme == "passthrough" || scheme == "ipv4" || scheme == "ipv6"):
		// dns:///host:port and dns://authority/host:port; the endpoint is behind the last slash.
		addr = rest[strings.LastIndexByte(rest, '/')+1:]
	}
	return loopbackHosts(addr)
}

// loopbackHosts also takes the comma separated lists of the ipv4 and ipv6 schemes: all must be
// loopback.
func loopbackHosts(list string) bool {
	for addr := range strings.SplitSeq(list, ",") {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = strings.Trim(addr, "[]")
		}
		ip, err := netip.ParseAddr(host)
		if host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
			return false
		}
	}
	return true
}
