package bench

import (
	"bufio"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Machine is what the figures were measured on.
type Machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPU  string `json:"cpu,omitempty"`
	CPUs int    `json:"cpus"`
	// Memory as the kernel tells it.
	Memory string `json:"memory,omitempty"`
	Kernel string `json:"kernel,omitempty"`
	Go     string `json:"go"`
	// SyncMillis is the median of writing 64 bytes and forcing them to the disk of the logs.
	SyncMillis float64 `json:"sync_ms"`
	// When the run began.
	When time.Time `json:"when"`
}

// Server is a database server and its databases.
type Server struct {
	Resources []string          `json:"resources"`
	Version   string            `json:"version"`
	Settings  map[string]string `json:"settings"`
}

// serversOf are the servers behind databases. What runs as the same system is one server.
func serversOf(banks []*bank) []Server {
	var all []Server
	at := map[string]int{}
	for _, b := range banks {
		i, known := at[b.identity]
		if !known {
			i = len(all)
			at[b.identity] = i
			all = append(all, Server{Version: b.version, Settings: b.settings})
		}
		all[i].Resources = append(all[i].Resources, b.Name)
	}
	return all
}

// syncTries is how often the disk is tried.
const syncTries = 51

func lookAtMachine(disk *decisions) (Machine, error) {
	m := Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(),
		Go: runtime.Version(), When: time.Now().UTC().Truncate(time.Second),
		CPU:    fieldOf("/proc/cpuinfo", "model name"),
		Memory: fieldOf("/proc/meminfo", "MemTotal")}
	// Systems without it just do not say.
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(kernel))
	var took []time.Duration
	for range syncTries {
		start := time.Now()
		if err := disk.force(); err != nil {
			return m, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	m.SyncMillis = millis(took[syncTries/2])
	return m, nil
}

// fieldOf is the value of the first line with this title in a file of /proc, or nothing.
func fieldOf(file, title string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) == title {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
