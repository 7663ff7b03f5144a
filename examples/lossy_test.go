package examples

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// lossy is a way to the coordinator's HTTP address on which one answer gets lost: that to the first
// call of a method, which the coordinator carries out.
type lossy struct {
	url    string
	method string
	calls  atomic.Int32
}

func newLossy(t *testing.T, target, method string) *lossy {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{method: method}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: l.lose,
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	l.url = s.URL
	return l
}

// lose sees the coordinator's answer. To panic so is how a handler closes its connection
// unanswered.
func (l *lossy) lose(answer *http.Response) error {
	if strings.HasSuffix(answer.Request.URL.Path, "/"+l.method) && l.calls.Add(1) == 1 {
		panic(http.ErrAbortHandler)
	}
	return nil
}
