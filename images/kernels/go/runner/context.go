package main

import (
	"fmt"
	"os"
	"strings"
)

// A context: what has been declared, and the run that goes on.
type context struct {
	channel    *channel
	tools      *tools
	interrupts chan struct{} // holds one as soon as the run is to be interrupted
	orders     chan order
	session    *session
	env        []string
	count      int
}

func newContext(channel *channel, tools *tools) *context {
	return &context{
		channel: channel, tools: tools, interrupts: make(chan struct{}, 1),
		orders: make(chan order, 1), session: newSession(tools),
	}
}

// serve obeys until the channel ends; it returns then.
func (c *context) serve() {
	c.channel.say(said{"type": "ready", "protocol": protocol})
	go c.tools.warmUp()
	go c.listen()
	for order := range c.orders {
		switch order.Op {
		case "start":
			c.start(order)
		case "run":
			c.run(order)
		case "complete", "inspect":
			c.channel.say(said{"type": "refused", "id": order.ID, "message": "Go contexts do not do that"})
		}
	}
}

// listen passes on what execd sends, until it has closed the channel.
func (c *context) listen() {
	defer close(c.orders)
	for {
		order, isThere := c.channel.receive()
		switch {
		case !isThere:
			return
		case order.Op == "interrupt":
			select {
			case c.interrupts <- struct{}{}:
			default: // there is one already
			}
		default:
			if order.Op == "run" {
				c.isInterrupted() // it was meant for a run that was over
			}
			c.orders <- order
		}
	}
}

// isInterrupted tells whether the run is to be interrupted, once.
func (c *context) isInterrupted() bool {
	select {
	case <-c.interrupts:
		return true
	default:
		return false
	}
}

func (c *context) start(order order) {
	c.env = c.env[:0]
	for name, value := range order.Env {
		c.env = append(c.env, name+"="+value)
	}
	if err := os.Chdir(order.Cwd); err != nil {
		c.channel.say(said{"type": "failed", "message": err.Error()})
		return
	}
	c.channel.say(said{"type": "started"})
}

func (c *context) run(order order) {
	c.count++
	status, ended := c.execute(order)
	done := said{"type": "done", "id": order.ID, "status": status, "count": c.count}
	if ended != nil {
		done["peak_memory_bytes"] = ended.peak
		if !ended.isPanic && !ended.isInterrupted {
			done["exit_code"] = ended.exitCode
		}
	}
	c.channel.say(done)
}

// execute returns how a run ended, and its program, if it came to one.
func (c *context) execute(order order) (string, *ending) {
	if strings.TrimSpace(order.Code) == "" {
		return "ok", nil
	}
	plan, failure := c.session.plan(order.Code, c.count)
	if failure != nil {
		return c.fail("CompileError", failure), nil
	}
	if !plan.hasRun { // declarations only
		c.session.accept(plan, nil)
		return "ok", nil
	}
	binary, failure := c.tools.build(plan, c.count, c.env)
	if failure != nil {
		return c.fail("CompileError", failure), nil
	}
	if c.isInterrupted() { // while it was compiled; the signal has struck nothing
		os.Remove(binary)
		return "interrupted", nil
	}
	ended := c.tools.run(binary, c.env, c.session.state, c.interrupts)
	for _, one := range ended.reset {
		fmt.Fprintf(os.Stderr, "sandlot: %s has lost its value: %s\n", one.name, one.why)
	}
	for _, one := range ended.lost {
		fmt.Fprintf(os.Stderr, "sandlot: %s is not kept: %s\n", one.name, one.why)
	}
	if ended.isWhole {
		c.session.accept(plan, ended)
	}
	switch {
	case ended.isInterrupted:
		return "interrupted", ended
	case ended.isPanic:
		c.channel.say(said{"type": "error", "name": "panic", "value": ended.panicText, "traceback": ended.trace})
		return "error", ended
	case ended.status != "":
		c.channel.say(said{"type": "error", "name": "ExitError", "value": ended.status, "traceback": []string{}})
		return "error", ended
	}
	if ended.result != "" {
		c.channel.say(said{"type": "result", "data": map[string]string{"text/plain": ended.result}, "count": c.count})
	}
	return "ok", ended
}

func (c *context) fail(name string, lines []string) string {
	c.channel.say(said{"type": "error", "name": name, "value": lines[0], "traceback": lines})
	return "error"
}
