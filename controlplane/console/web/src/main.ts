import { mount } from 'svelte';

import './design/styles/tokens.css';
import './design/styles/base.css';
import App from './App.svelte';
import { takeCode } from './shell/code';

const code = takeCode(); // before anything else: the address must not keep it

mount(App, { target: document.body, props: { code } });
