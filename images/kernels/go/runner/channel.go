package main

import (
	"bufio"
	"encoding/json"
	"os"
)

const maxLine = 16<<20 - 64<<10

// order is what execd sends.
type order struct {
	Op   string            `json:"op"`
	ID   int               `json:"id"`
	Code string            `json:"code"`
	Cwd  string            `json:"cwd"`
	Env  map[string]string `json:"env"`
}

// said is what we send: a type and fields.
type said map[string]any

type channel struct {
	file  *os.File
	lines *bufio.Scanner
}

func openChannel(number int) *channel {
	file := os.NewFile(uintptr(number), "channel")
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 64<<10), maxLine+1)
	return &channel{file, lines}
}

// receive returns the next order; false at the end.
func (c *channel) receive() (order, bool) {
	var found order
	if !c.lines.Scan() {
		return found, false
	}
	return found, json.Unmarshal(c.lines.Bytes(), &found) == nil
}

func (c *channel) say(message said) {
	line, err := json.Marshal(message)
	if err != nil || len(line) > maxLine {
		line, _ = json.Marshal(said{"type": "error", "name": "TooLarge", "value": "a message is too large", "traceback": []string{}})
	}
	c.file.Write(append(line, '\n'))
}
