package main

import (
	"os"
	"strings"
)

// A context: what has been declared, and the run that goes on.
type context struct {
	channel    *channel
	tools      *tools
	interrupts <-chan os.Signal
	orders     chan order
	session    *session
	env        []string
	count      int
}

func newContext(channel *channel, tools *tools, interrupts <-chan os.Signal) *context {
	return &context{
		channel: channel, tools: tools, interrupts: interrupts,
		orders: make(chan order, 1), session: newSession(tools),
	}
}

// serve obeys until the channel ends; it returns then.
func (c *context) serve() {
	c.channel.say(said{"type": "ready", "protocol": protocol})
	go c.tools.warmUp()
	go func() {
		defer close(c.orders)
		for {
			order, isThere := c.channel.receive()
			if !isThere {
				return
			}
			c.orders <- order
		}
	}()
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
	for len(c.interrupts) > 0 {
		<-c.interrupts // of a run that was over
	}
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
	if plan.isEmpty() { // declarations only
		c.session.accept(plan, nil)
		return "ok", nil
	}
	binary, failure := c.tools.build(plan, c.count, c.env)
	if failure != nil {
		return c.fail("CompileError", failure), nil
	}
	ended := c.tools.run(binary, c.env, c.session.state, c.interrupts)
	for _, notice := range ended.lost {
		os.Stderr.WriteString("sandlot: " + notice + "\n")
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
