package compose

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// volumes wants everything that must outlive a container on a named volume, each written by one
// service.
func volumes(p *types.Project) []string {
	var out []string
	writers := map[string][]string{}
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeVolume || v.Source == "" {
				msg := fmt.Sprintf("%s keeps %s outside of named volumes", name, v.Target)
				out = append(out, msg)
			}
			if !v.ReadOnly && !runsOnce(s) {
				writers[v.Source] = append(writers[v.Source], name)
			}
		}
		if where := memory(s); where != "" && !mounted(s, where) {
			out = append(out, fmt.Sprintf("%s forgets %s", name, where))
		}
	}
	for volume, names := range writers {
		if len(names) > 1 {
			slices.Sort(names)
			out = append(out, fmt.Sprintf("%s is written by %v", volume, names))
		}
	}
	return out
}

// memory is the folder that a service must find again after its container was replaced.
func memory(s types.ServiceConfig) string {
	switch {
	case isDatabase(s):
		return "/var/lib/postgresql/data"
	case isGavel(s):
		return "/var/lib/gavel"
	}
	return ""
}

func mounted(s types.ServiceConfig, target string) bool {
	return slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Target == target && !v.ReadOnly
	})
}

// hardening wants of our own processes what SECURITY.md recommends: no right that they do not need.
func hardening(p *types.Project) []string {
	var out []string
	for _, s := range services(p, isGavel) {
		switch {
		case !s.ReadOnly:
			out = append(out, s.Name+" may write to its own image")
		case !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0:
			out = append(out, s.Name+" keeps capabilities")
		case s.Privileged || s.User == "root" || s.User == "0":
			out = append(out, s.Name+" is root")
		case !slices.Contains(s.SecurityOpt, "no-new-privileges:true"):
			out = append(out, s.Name+" may gain privileges")
		}
	}
	return out
}

// plainText wants --insecure exactly where a process listens beyond loopback: there it would refuse
// to start without certificates.
func plainText(p *types.Project) []string {
	var out []string
	for _, s := range services(p, isGavel) {
		if beyondLoopback(s) != slices.Contains(s.Command, "--insecure") {
			msg := " listens beyond loopback without --insecure, or has it for nothing"
			out = append(out, s.Name+msg)
		}
	}
	return out
}

func beyondLoopback(s types.ServiceConfig) bool {
	listens := slices.Concat(flag(s, "grpc"), flag(s, "http"))
	return slices.ContainsFunc(listens, func(a string) bool {
		addr, err := netip.ParseAddrPort(a)
		return err != nil || !addr.Addr().IsLoopback()
	})
}

// resources wants the coordinator to know every participant under the name and at the address that
// it has, and on a network that both are on.
func resources(p *types.Project) []string {
	var out, want []string
	for _, s := range services(p, isParticipant) {
		name, addr := strings.Join(flag(s, "name"), ","), strings.Join(flag(s, "grpc"), ",")
		want = append(want, fmt.Sprintf("%s=grpc://%s:%s", name, s.Name, port(addr)))
	}
	for _, c := range services(p, isCoordinator) {
		got := slices.Sorted(slices.Values(flag(c, "resource")))
		if !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			out = append(out, fmt.Sprintf("%s has resources %v, want %v", c.Name, got, want))
		}
		for _, r := range got {
			out = append(out, unreachable(p, c, r)...)
		}
	}
	return out
}

func unreachable(p *types.Project, c types.ServiceConfig, resource string) []string {
	_, target, _ := strings.Cut(resource, "=")
	u, err := url.Parse(target)
	if err != nil {
		return []string{err.Error()}
	}
	for network := range p.Services[u.Hostname()].Networks {
		if _, shared := c.Networks[network]; shared {
			return nil
		}
	}
	return []string{fmt.Sprintf("%s shares no network with %s", c.Name, target)}
}

// logMade wants the log to be made by a step of its own, before the coordinator, on its volume. The
// coordinator itself must never make one: an empty directory may be a lost memory.
func logMade(p *types.Project) []string {
	makers := services(p, func(s types.ServiceConfig) bool {
		return runsOnce(s) && len(s.Command) > 1 && s.Command[0] == "log" && s.Command[1] == "init"
	})
	var out []string
	for _, c := range services(p, isCoordinator) {
		ours := func(m types.ServiceConfig) bool { return makesLog(m, c) }
		if !slices.ContainsFunc(makers, ours) {
			out = append(out, "nothing makes the log of "+c.Name)
		}
	}
	return out
}

func makesLog(maker, c types.ServiceConfig) bool {
	_, awaited := c.DependsOn[maker.Name]
	dir := maker.Command[len(maker.Command)-1]
	return awaited && slices.Equal(flag(c, "data"), []string{dir}) &&
		slices.Contains(maker.Command, "--if-missing") && source(maker, dir) == source(c, dir)
}

// source is the volume that a service has at a folder.
func source(s types.ServiceConfig, target string) string {
	for _, v := range s.Volumes {
		if v.Target == target {
			return v.Source
		}
	}
	return "nothing at " + target + " of " + s.Name
}
