package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// findPython returns a Python that can speak gRPC. Debian's may not be the first one.
func findPython(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(t.Context(), python, "-c",
			"import grpc, google.protobuf").Run() == nil {
			return python
		}
	}
	t.Fatal("no python3 has grpc and google.protobuf; as root, .ci/run --install installs them")
	return ""
}

// makeStubs makes the Python classes of our messages, as the example says, and returns their
// folder.
func makeStubs(t *testing.T) string {
	t.Helper()
	protos, err := filepath.Glob(filepath.Join(root, "proto/gavel/v1/*.proto"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	must(t, nil, append([]string{"protoc", "--proto_path=" + filepath.Join(root, "proto"),
		"--python_out=" + dir}, protos...)...)
	return dir
}

// installNode installs the packages of the examples for Node beside a copy of them, which sees the
// protos where the examples see them: the tree itself is left as it is.
func installNode(t *testing.T) string {
	t.Helper()
	scratch := t.TempDir()
	dir := filepath.Join(scratch, "examples", "node")
	if err := os.CopyFS(dir, os.DirFS("node")); err != nil {
		t.Fatal(err)
	}
	protos, err := filepath.Abs(filepath.Join(root, "proto"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(protos, filepath.Join(scratch, "proto")); err != nil {
		t.Fatal(err)
	}
	must(t, nil, "npm", "--prefix", dir, "ci", "--ignore-scripts", "--no-audit", "--no-fund",
		"--prefer-offline", "--fetch-retries", "5")
	return dir
}
