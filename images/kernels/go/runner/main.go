// Command runner is a context of Go: docs/runner-protocol.md. It keeps what runs declare, makes a program of each run, and
// lets that bring the variables over.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

const protocol = 1

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: runner GOROOT")
		os.Exit(2)
	}
	number, err := strconv.Atoi(os.Getenv("SANDLOT_CHANNEL_FD"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner: $SANDLOT_CHANNEL_FD is no descriptor")
		os.Exit(2)
	}
	syscall.CloseOnExec(number)
	os.Unsetenv("SANDLOT_CHANNEL_FD")
	// The signal is for the program that runs, and ends nothing here: we hear of interrupts by the channel. Not ignored,
	// which programs would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT)
	tools, err := openTools(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner:", err)
		os.Exit(1)
	}
	defer tools.close()
	newContext(openChannel(number), tools).serve()
}
