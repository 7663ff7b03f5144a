package coordinatorcmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/serve"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

// finding is one line of --check. Its JSON is part of the contract.
type finding struct {
	Subject string `json:"subject"`
	Level   string `json:"level"`
	What    string `json:"what"`
	Fix     string `json:"fix,omitempty"`
}

// runCheck looks at everything that a start would need, and changes nothing.
func runCheck(
	ctx context.Context, io ui.IO, set settings.Coordinator, format ui.Format,
) (err error) {
	log, err := set.Logger(io)
	if err != nil {
		return err
	}
	face := serve.Face{GRPC: set.GRPC, HTTP: set.HTTP, TLS: set.TLS(), Insecure: set.Insecure}
	if err := face.Check(); err != nil {
		return err
	}
	opened, err := open(ctx, io, set, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resource.CloseAll(opened)) }()
	findings := []finding{checkLog(set.Data)}
	for _, o := range opened {
		findings = append(findings, checkResource(ctx, set, o)...)
	}
	if err := show(io, format, findings); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Level == participant.LevelFail.String() {
			return exit.Silent(exit.No)
		}
	}
	return nil
}

// checkLog reads the log as a start would, without its lock.
func checkLog(dir string) finding {
	info, err := txlog.Stat(vfs.OS(), dir)
	if err == nil && info.Copy {
		err = &txlog.CopyError{Dir: dir}
	}
	if err != nil {
		e := exit.Of(exit.Log(dir, err))
		return finding{"log", participant.LevelFail.String(), e.What, e.Do}
	}
	return finding{Subject: "log", Level: participant.LevelOK.String(),
		What: fmt.Sprintf("id %s, epoch %d, %s", info.ID, info.Epoch, ui.SizeText(info.Bytes))}
}

// checkResource asks one resource about itself.
func checkResource(ctx context.Context, set settings.Coordinator, o resource.Opened) []finding {
	fail := func(what, fix string) []finding {
		return []finding{{o.Name, participant.LevelFail.String(), what, fix}}
	}
	describer, ok := o.Manager.(participant.Describer)
	if !ok {
		return fail("it cannot say who it is", "")
	}
	ctx, cancel := context.WithTimeout(ctx, set.CallTimeout)
	defer cancel()
	d, err := describer.Describe(ctx)
	if err != nil {
		return fail(err.Error(), "see that the address and the password of "+o.Target.String()+
			" are right, and that it runs")
	}
	found := []finding{{o.Name, participant.LevelOK.String(),
		fmt.Sprintf("%s %s, identity %s", d.Kind, d.Version, d.Identity), ""}}
	for _, c := range d.Findings() {
		found = append(found, finding{o.Name, c.Level.String(), c.What, c.Fix})
	}
	return found
}

// show prints findings; a fix stands below what it fixes, to be copied.
func show(io ui.IO, format ui.Format, findings []finding) error {
	if format == ui.JSON {
		return ui.WriteJSON(io.Out, findings)
	}
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Subject))
	}
	last := ""
	for _, f := range findings {
		subject := f.Subject
		if subject == last {
			subject = ""
		}
		last = f.Subject
		fmt.Fprintf(io.Out, "%-*s  %-4s  %s\n", width, subject, f.Level, f.What)
		if f.Fix != "" {
			fmt.Fprintf(io.Out, "%-*s        fix: %s\n", width, "", f.Fix)
		}
	}
	return nil
}
