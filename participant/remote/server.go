package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// Service is the name of the service in gRPC, also for the health service.
const Service = "gavel.v1.ParticipantService"

// Greeter is implemented by resources that want to know of a coordinator's epoch before its first
// call. Hello drops unprepared work of older epochs. One that also keeps fences durably itself,
// and refuses older ones in every method, needs no FenceFile.
type Greeter interface {
	Hello(ctx context.Context, f txn.Fence) error
}

// Forgetter is implemented by resources that remember finished branches. Forget says that these
// will not be asked about again; it must not touch a branch that is still prepared.
type Forgetter interface {
	Forget(ctx context.Context, f txn.Fence, b []participant.Branch) error
}

// Config describes a Server.
type Config struct {
	// Name is the name of the resource. A call that is meant for another is refused, since the
	// caller's address is wrong then. Defaults to no name, and no check.
	Name string
	// Resource does the work. It stays the caller's: Close does not close it.
	Resource participant.Resource
	// SQL runs the statements of clients: the session.Keeper that is the Resource. Defaults to
	// nobody, and SqlService is not served.
	SQL session.Runner
	// FenceFile is the path of the memory of fences. Its directory must exist, and be as durable
	// as the resource. It may be empty only for a Resource that is a Greeter and keeps fences
	// itself, which a session.Keeper does not.
	FenceFile string
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Report hears of failures that no call can be blamed for. It must not block. Defaults to
	// nobody.
	Report func(error)
}

// Server implements ParticipantService. It is safe for concurrent use; Close ends it.
type Server struct {
	gavelv1.UnimplementedParticipantServiceServer

	name     string
	resource participant.Resource
	memory   *memory // nil where the resource keeps fences itself
	sql      session.Runner
	report   func(error)
	// sessions are the goroutines that wait for clients of SqlService.
	sessions sync.WaitGroup
}

// NewServer makes a server of a resource and reads the fences that were seen before.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Resource == nil {
		return nil, errors.New("participant/remote: a server needs a resource")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Report == nil {
		cfg.Report = func(error) {}
	}
	s := &Server{name: cfg.Name, resource: cfg.Resource, sql: cfg.SQL, report: cfg.Report}
	_, greets := cfg.Resource.(Greeter)
	if _, keeper := cfg.Resource.(*session.Keeper); cfg.FenceFile == "" && (!greets || keeper) {
		return nil, errors.New("participant/remote: a resource without fences needs a FenceFile")
	}
	if cfg.FenceFile != "" {
		memory, err := openMemory(cfg.FenceFile, cfg.Now, cfg.Report)
		if err != nil {
			return nil, err
		}
		s.memory = memory
	}
	return s, nil
}

// Register adds the services to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	gavelv1.RegisterParticipantServiceServer(r, s)
	if s.sql != nil {
		recovery := transport.Recovery(func(p transport.Panic) {
			s.report(fmt.Errorf("a statement failed inside: %v\n%s", p.Value, p.Stack))
		})
		gavelv1.RegisterSqlServiceServer(r,
			&sqlServer{server: s, runner: s.sql, recovery: recovery})
	}
}

// Close makes the memory of fences durable. The gRPC server must be stopped first.
func (s *Server) Close() error {
	s.sessions.Wait()
	if s.memory == nil {
		return nil
	}
	return s.memory.close()
}

// Register puts a resource that keeps fences itself, such as a service with its journal (package
// participant/service) or a kv store, behind a gRPC server, under the name by which coordinators
// call it. The resource stays the caller's. A gRPC server that coordinators call must allow pings
// every 10 seconds (keepalive.EnforcementPolicy with PermitWithoutStream; the ServerOptions of
// package proto/wire/transport do), or calls that are rarer than that lose their connection.
func Register(g grpc.ServiceRegistrar, name string, r participant.Resource) error {
	s, err := NewServer(Config{Name: name, Resource: r})
	if err == nil {
		s.Register(g)
	}
	return err
}

// checkName refuses a call that was meant for another resource.
func (s *Server) checkName(name string) error {
	if name == "" || s.name == "" || name == s.name {
		return nil
	}
	return txn.Refusef(txn.ReasonNoResource, "resource",
		"the call is meant for %q, and this is %q", wire.Cut(name, txn.MaxResourceNameLen), s.name)
}

// admit is what every fenced call passes first.
func (s *Server) admit(name string, f *gavelv1.Fence, hello bool) (txn.Fence, error) {
	if err := s.checkName(name); err != nil {
		return txn.Fence{}, err
	}
	got, err := wire.DecodeFence(f)
	if err != nil {
		return txn.Fence{}, err
	}
	if s.memory != nil {
		err = s.memory.admit(got, hello)
	}
	return got, err
}

// request is what the calls about branches have in common.
type request interface {
	GetFence() *gavelv1.Fence
	GetResource() string
	GetBranches() []*gavelv1.BranchRef
}

// open admits a call about branches and reads them.
func (s *Server) open(r request) (txn.Fence, []participant.Branch, error) {
	branches, err := wire.DecodeBranches(r.GetBranches())
	if err != nil {
		return txn.Fence{}, nil, err
	}
	f, err := s.admit(r.GetResource(), r.GetFence(), false)
	return f, branches, err
}

// Hello implements the service.
func (s *Server) Hello(
	ctx context.Context, r *gavelv1.HelloRequest,
) (*gavelv1.HelloResponse, error) {
	f, err := s.admit(r.GetResource(), r.GetFence(), true)
	if err != nil {
		return nil, wire.Status(err)
	}
	if g, ok := s.resource.(Greeter); ok {
		if err := g.Hello(ctx, f); err != nil {
			return nil, wire.Status(err)
		}
	}
	return &gavelv1.HelloResponse{Resource: s.name}, nil
}

// Describe implements the service.
func (s *Server) Describe(
	ctx context.Context, r *gavelv1.DescribeRequest,
) (*gavelv1.DescribeResponse, error) {
	if err := s.checkName(r.GetResource()); err != nil {
		return nil, wire.Status(err)
	}
	d, ok := s.resource.(participant.Describer)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "the resource cannot describe itself")
	}
	description, err := d.Describe(ctx)
	if err != nil {
		return nil, wire.Status(err)
	}
	// What the wire cannot call is not offered.
	_, ok = s.resource.(participant.OnePhaser)
	description.OnePhase = description.OnePhase && ok
	_, ok = s.resource.(participant.Delegate)
	description.Delegate = description.Delegate && ok
	return wire.EncodeDescription(description), nil
}

// Prepare implements the service.
func (s *Server) Prepare(
	ctx context.Context, r *gavelv1.PrepareRequest,
) (*gavelv1.PrepareResponse, error) {
	f, branches, err := s.open(r)
	if err != nil {
		return nil, wire.Status(err)
	}
	votes, err := s.resource.Prepare(ctx, f, branches)
	if err == nil {
		err = complete(len(votes), len(branches))
	}
	if err != nil {
		return nil, wire.Status(err)
	}
	return &gavelv1.PrepareResponse{Votes: wire.EncodePreparedVotes(votes)}, nil
}

// Commit implements the service. One phase is refused before anything is done where the resource
// does not take it: to commit only what is prepared would leave the caller with branches that are
// gone, and nobody to ask how they ended.
func (s *Server) Commit(
	ctx context.Context, r *gavelv1.CommitRequest,
) (*gavelv1.CommitResponse, error) {
	call := s.resource.Commit
	if r.GetOnePhase() {
		one, ok := s.resource.(participant.OnePhaser)
		if !ok {
			return nil, wire.Status(txn.Refusef(txn.ReasonInvalid, "one_phase",
				"the resource cannot commit a branch that is not prepared"))
		}
		call = one.CommitOnePhase
	}
	findings, err := s.finish(ctx, r, call)
	return &gavelv1.CommitResponse{Findings: findings}, err
}

// Rollback implements the service.
func (s *Server) Rollback(
	ctx context.Context, r *gavelv1.RollbackRequest,
) (*gavelv1.RollbackResponse, error) {
	findings, err := s.finish(ctx, r, s.resource.Rollback)
	return &gavelv1.RollbackResponse{Findings: findings}, err
}

// Inquire implements the service.
func (s *Server) Inquire(
	ctx context.Context, r *gavelv1.InquireRequest,
) (*gavelv1.InquireResponse, error) {
	findings, err := s.finish(ctx, r, s.resource.Inquire)
	return &gavelv1.InquireResponse{Findings: findings}, err
}

func (s *Server) finish(
	ctx context.Context, r request,
	call func(context.Context, txn.Fence, []participant.Branch) ([]participant.Finding, error),
) ([]*gavelv1.Finding, error) {
	f, branches, err := s.open(r)
	if err != nil {
		return nil, wire.Status(err)
	}
	findings, err := call(ctx, f, branches)
	if err == nil {
		err = complete(len(findings), len(branches))
	}
	if err != nil {
		return nil, wire.Status(err)
	}
	return wire.EncodeFindings(findings), nil
}

// complete keeps an incomplete answer of an adapter from being taken for one.
func complete(got, want int) error {
	if got != want {
		return fmt.Errorf("participant/remote: the resource gave %d answers for %d branches", got,
			want)
	}
	return nil
}

// listChunk is how many branches travel in one message of a listing, beside wire.MaxMarkers.
const listChunk = 500

// ListInDoubt implements the service.
func (s *Server) ListInDoubt(
	r *gavelv1.ListInDoubtRequest, stream grpc.ServerStreamingServer[gavelv1.ListInDoubtResponse],
) error {
	f, err := s.admit(r.GetResource(), r.GetFence(), false)
	if err != nil {
		return wire.Status(err)
	}
	listing, err := s.resource.List(stream.Context(), f)
	if err != nil {
		return wire.Status(err)
	}
	message := &gavelv1.ListInDoubtResponse{Header: wire.EncodeListing(listing)}
	for branches, markers := listing.Branches, listing.Markers; ; {
		b, m := min(len(branches), listChunk), min(len(markers), wire.MaxMarkers)
		message.Branches = wire.EncodeListed(branches[:b])
		message.Markers = wire.EncodeMarkers(markers[:m])
		if err := stream.Send(message); err != nil {
			return err
		}
		branches, markers = branches[b:], markers[m:]
		if len(branches) == 0 && len(markers) == 0 {
			return nil
		}
		message = &gavelv1.ListInDoubtResponse{}
	}
}

// Decide implements the service.
func (s *Server) Decide(
	ctx context.Context, r *gavelv1.DecideRequest,
) (*gavelv1.DecideResponse, error) {
	d, err := s.delegate()
	if err != nil {
		return nil, wire.Status(err)
	}
	findings, err := s.finish(ctx, r, d.Decide)
	return &gavelv1.DecideResponse{Findings: findings}, err
}

// RemoveMarkers implements the service. Only the log that a marker is of may have it removed.
func (s *Server) RemoveMarkers(
	ctx context.Context, r *gavelv1.RemoveMarkersRequest,
) (*gavelv1.RemoveMarkersResponse, error) {
	d, err := s.delegate()
	if err != nil {
		return nil, wire.Status(err)
	}
	f, err := s.admit(r.GetResource(), r.GetFence(), false)
	if err != nil {
		return nil, wire.Status(err)
	}
	ids, err := wire.DecodeMarkers(r.GetMarkers(), f.Log)
	if err != nil {
		return nil, wire.Status(txn.Refusef(txn.ReasonInvalid, "markers", "%v", err))
	}
	if err := d.RemoveMarkers(ctx, f, ids); err != nil {
		return nil, wire.Status(err)
	}
	return &gavelv1.RemoveMarkersResponse{}, nil
}

// delegate is the resource as one to which decisions can be left. One that cannot is not asked
// for anything.
func (s *Server) delegate() (participant.Delegate, error) {
	d, ok := s.resource.(participant.Delegate)
	if !ok {
		return nil, participant.ErrNoMarkers
	}
	return d, nil
}

// Forget implements the service. A resource that remembers nothing has nothing to forget.
func (s *Server) Forget(
	ctx context.Context, r *gavelv1.ForgetRequest,
) (*gavelv1.ForgetResponse, error) {
	f, branches, err := s.open(r)
	if err != nil {
		return nil, wire.Status(err)
	}
	if g, ok := s.resource.(Forgetter); ok {
		if err := g.Forget(ctx, f, branches); err != nil {
			return nil, wire.Status(err)
		}
	}
	return &gavelv1.ForgetResponse{}, nil
}
