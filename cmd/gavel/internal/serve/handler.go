package serve

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one line of /readyz. One that is not Required is shown and does not count: a process
// with one broken resource still serves all others.
type Check struct {
	Name     string
	OK       bool
	Required bool
	Detail   string
}

// probeTimeout bounds how long a probe may wait for its checks.
const probeTimeout = 2 * time.Second

// Route is what else is served below a path, which ends in a slash.
type Route struct {
	Path    string
	Handler http.Handler
}

// Handler serves /metrics, /livez and /readyz, and whatever else is given. ready is asked at each
// probe, with a context that ends soon.
func Handler(
	gather prometheus.Gatherer, ready func(context.Context) []Check, more ...Route,
) http.Handler {
	mux := http.NewServeMux()
	for _, r := range more {
		mux.Handle(r.Path, r.Handler)
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		writeChecks(w, ready(ctx), r.URL.Query().Has("verbose"))
	})
	return mux
}

// writeChecks answers in the manner of Kubernetes' own probes. What failed is always said.
func writeChecks(w http.ResponseWriter, checks []Check, verbose bool) {
	ready := Passed(checks)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if verbose || !ready {
		for _, c := range checks {
			fmt.Fprintln(w, c.line())
		}
	}
	if ready {
		fmt.Fprintln(w, "ready")
	} else {
		fmt.Fprintln(w, "not ready")
	}
}

func (c Check) line() string {
	mark := "[-]"
	if c.OK {
		mark = "[+]"
	}
	line := mark + c.Name
	if c.Detail != "" {
		line += ": " + c.Detail
	}
	if !c.OK && !c.Required {
		line += " (does not count)"
	}
	return line
}

// Passed says whether every required check is good.
func Passed(checks []Check) bool {
	for _, c := range checks {
		if c.Required && !c.OK {
			return false
		}
	}
	return true
}

// Registry is a metrics registry with what every process shows: its build, the Go runtime, the
// process itself.
func Registry(version string, more ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "gavel_build_info",
		Help:        "Always 1; the label says which version runs.",
		ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(more...)
	return r
}
